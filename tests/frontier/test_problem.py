"""Which levels the knapsack takes, and what is learned from verified models."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gossamer.checkpoint.source import open_model
from gossamer.frontier.budget import parse_budget
from gossamer.frontier.costs import Costs
from gossamer.frontier.levels import is_low_rank
from gossamer.frontier.problem import Problem, fitted_factors, ratio_of


@pytest.fixture
def costs(parent: Callable[[str], Path]) -> Costs:
    return Costs(open_model(parent("llama")))


def falling(costs: Costs, name: str, option: str) -> float:
    """A loss that falls to a quarter with each bit of a weight."""
    rows, columns = costs.shapes[name]
    return float(4.0 ** (-8 * costs.bytes(name, option) / (rows * columns)))


def test_a_low_rank_part_is_taken_where_it_gives_back_more_than_its_bytes_do_elsewhere(costs: Costs) -> None:
    mostly_low_rank = costs.linears[0]

    def loss(name: str, option: str) -> float:
        gives_back = name == mostly_low_rank and is_low_rank(option)
        return falling(costs, name, option) * (0.01 if gives_back else 1.0)

    problem = Problem(costs, parse_budget("size=70KB"), loss, costs.bytes)
    for family in ("mixed", "dense", "sparse"):
        best = problem.best(family)
        assert best is not None
        assert is_low_rank(best[mostly_low_rank])
        assert problem.cost(best) <= 70e3


def test_a_low_rank_part_is_left_where_its_bytes_do_more_elsewhere(costs: Costs) -> None:
    def loss(name: str, option: str) -> float:
        base = falling(costs, name, option.partition("-rank")[0])
        return 0.9 * base if is_low_rank(option) else base

    best = Problem(costs, parse_budget("size=70KB"), loss, costs.bytes).best("mixed")
    assert best is not None
    assert not any(map(is_low_rank, best.values()))


def test_factors_of_dense_and_sparse_losses_are_learned_from_what_was_measured() -> None:
    dense, sparse = fitted_factors(
        [((0.2, 0.0, 0.07), 0.07 + 0.1), ((0.1, 0.5, 0.0), 0.05 + 1.0), ((0.3, 0.2, 0.1), 0.1 + 0.15 + 0.4)]
    )
    assert dense == pytest.approx(0.5, rel=0.05)
    assert sparse == pytest.approx(2.0, rel=0.05)


def test_without_a_measurement_predictions_are_believed() -> None:
    assert fitted_factors([]) == pytest.approx((1.0, 1.0))
    assert fitted_factors([((0.2, 0.0, 0.0), 0.1)])[1] == pytest.approx(1.0)


def test_a_model_that_came_out_better_than_dense_does_not_break_the_fit() -> None:
    dense, _ = fitted_factors([((0.001, 0.0, 0.0), -0.002)])
    assert 0 < dense < 1


def test_a_ratio_never_overflows() -> None:
    assert ratio_of(0.0) == 1.0
    assert ratio_of(1e9) > 1e300
