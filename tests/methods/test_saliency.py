"""What removing a weight costs, and the sparsity that many layers share by it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossamer.errors import CalibrationError
from gossamer.methods.saliency import MOST, SharedSparsity, input_cost, output_importance


def test_the_cost_of_an_input_is_what_removing_it_loses_when_the_others_make_up_for_it() -> None:
    torch.manual_seed(0)
    x_TI = torch.randn(200, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    gram_II = (x_TI.T @ x_TI / 200).float()
    cost_I = input_cost(gram_II, [])
    damped_II = gram_II.double() + 0.01 * gram_II.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    for removed in range(6):
        others = [index for index in range(6) if index != removed]
        row = damped_II[others][:, others]
        moved = torch.linalg.solve(row, damped_II[others, removed])
        lost = damped_II[removed, removed] - damped_II[removed, others] @ moved
        assert float(cost_I[removed]) == pytest.approx(float(lost), rel=1e-4)


def test_dead_inputs_cost_nothing_and_damaged_statistics_are_refused() -> None:
    gram_II = torch.diag(torch.tensor([1.0, 0.0, 4.0]))
    assert input_cost(gram_II, [])[1] == 0
    with pytest.raises(CalibrationError):
        input_cost(gram_II * torch.nan, [])


def test_the_importance_of_outputs_is_relative_and_never_zero() -> None:
    found_O = output_importance(torch.tensor([0.0, 1.0, 3.0]) * 1e-20)
    assert found_O[0] > 0
    assert found_O[2] > found_O[1] > found_O[0]
    assert torch.equal(output_importance(torch.zeros(3)), torch.ones(3))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(1e-6, 1e6)), min_size=1, max_size=8),
    st.floats(0.0, 0.9),
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
    most = sum(int(MOST * 20 * rows) for rows, _ in layers)
    assert round(sum(pruned.values())) == min(round(sparsity * total), most)


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
