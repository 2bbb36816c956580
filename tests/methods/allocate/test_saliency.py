"""What removing and rounding weights costs, and the sparsity and bits that layers share by it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossamer.methods.allocate.saliency import (
    MOST,
    SharedSparsity,
    output_importance,
    rounding_cost,
    shared_bits,
    shared_windows,
    window_gains,
)
from gossamer.methods.solve.grid import Grid, quantize


def test_rounding_costs_what_errors_spread_over_a_step_do() -> None:
    torch.manual_seed(0)
    weight_OI, fisher_OI = torch.randn(64, 256), torch.rand(64, 256)
    for bits in (4, 6):
        grid = Grid(bits=bits, group_size=32, search=False)
        error_OI = quantize(weight_OI, grid).dequantize() - weight_OI
        lost = float((error_OI.square() * fisher_OI).sum())
        assert rounding_cost(weight_OI, grid, fisher_OI) == pytest.approx(lost, rel=0.05)


def test_layers_that_lose_most_by_rounding_get_more_bits_within_the_average() -> None:
    sizes = {"small": 10, "large": 100, "other": 100}
    costs = {"small": 5.0, "large": 5.0, "other": 0.001}
    found = shared_bits(costs, sizes, dict.fromkeys(sizes, range(4, 9)), 4.7)
    assert found["small"] > found["large"] > found["other"] == 4
    assert sum(found[name] * sizes[name] for name in sizes) <= 4.7 * 210
    assert shared_bits({"one": 1.0}, {"one": 7}, {"one": range(3, 9)}, 3.5) == {"one": 3}, (
        "a layer is not split"
    )
    found = shared_bits(costs, sizes, dict.fromkeys(sizes, (4, 8)), 4.7)
    assert found == {"small": 8, "large": 4, "other": 4}, "8 bits for `large` would be 5.9 on average"


def test_windows_gain_what_their_next_weight_saves_and_rows_share_by_it() -> None:
    cost_OI = torch.tensor([[1.0, 4.0, 2.0, 8.0, 3.0, 0.0, 5.0, 1.0]])
    assert window_gains(cost_OI, 4).tolist() == [[6.5, 3.5, 1.5, 0.5]]
    dear, cheap = torch.tensor([[90.0, 60.0, 20.0, 10.0], [9.0, 0.3, 0.2, 0.1]]), torch.full((1, 4), 0.3)
    gains = {"dear": (dear, 8), "cheap": (cheap, 8)}
    assert shared_windows(gains, 2, 4) == {"dear": [4, 1], "cheap": [1]}
    assert shared_windows({"one": (cheap, 8)}, 2, 4) == {"one": [2]}


@given(st.integers(1, 15), st.lists(st.tuples(st.integers(1, 20), st.integers(1, 4)), min_size=1, max_size=4))
def test_rows_keep_n_of_m_on_average(n: int, shapes: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    costs = {str(k): torch.rand(rows, 16 * windows) * (k + 1) for k, (rows, windows) in enumerate(shapes)}
    found = shared_windows(
        {name: (window_gains(each, 16), each.shape[1]) for name, each in costs.items()}, n, 16
    )
    kept = sum(sum(found[name]) * each.shape[1] / 16 for name, each in costs.items())
    total = sum(each.numel() for each in costs.values())
    assert n / 16 * total - 4 < kept <= n / 16 * total
    assert all(1 <= each <= 16 for rows in found.values() for each in rows)


def test_the_importance_of_outputs_is_relative_and_never_zero() -> None:
    found_O = output_importance(torch.tensor([0.0, 1.0, 3.0]) * 1e-20)
    assert found_O[0] > 0
    assert found_O[2] > found_O[1] > found_O[0]
    assert torch.equal(output_importance(torch.zeros(3)), torch.ones(3))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(1e-6, 1e6)), min_size=1, max_size=8),
    st.floats(0.0, 0.99),
    st.integers(0, 1000),
)
def test_the_layers_together_prune_exactly_what_was_asked(
    layers: list[tuple[int, float]], sparsity: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shared = SharedSparsity(sparsity)
    for number, (rows, scale) in enumerate(layers):
        shared.add(str(number), scale * torch.rand(rows, 20, generator=generator))
    found = shared.sparsities()
    pruned = {number: found[str(number)] * 20 * rows for number, (rows, _) in enumerate(layers)}
    assert all(abs(count - round(count)) < 1e-6 for count in pruned.values())
    total = sum(20 * rows for rows, _ in layers)
    assert round(sum(pruned.values())) == round(sparsity * total)


def test_the_cheapest_weights_go_wherever_they_are_up_to_a_bound() -> None:
    shared = SharedSparsity(0.5)
    cheap, dear = torch.rand(100, 10) * 1e-3, 1 + torch.rand(100, 10)
    shared.add("cheap", cheap)
    shared.add("dear", dear)
    found = shared.sparsities()
    assert found["cheap"] == MOST
    assert found["dear"] == pytest.approx(1 - MOST)
    even = SharedSparsity(0.3)
    even.add("one", torch.ones(10, 10))
    even.add("other", torch.ones(10, 10))
    assert even.sparsities() == {"one": 0.3, "other": 0.3}
