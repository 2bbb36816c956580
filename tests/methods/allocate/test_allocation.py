"""Allocation: OWL's formula, and knapsacks against all choices tried one by one."""

import itertools
import random

import pytest
import torch

from gossamer.methods.allocate.allocation import (
    Option,
    cheapest,
    climbs,
    hull,
    outlier_share,
    owl,
    total,
    within_cost,
    within_loss,
)


def random_parts(seed: int, num_parts: int = 4, num_options: int = 4) -> dict[str, list[Option]]:
    generator = random.Random(seed)
    return {
        f"part{number}": [
            Option(float(generator.randint(1, 30)), generator.random()) for _ in range(num_options)
        ]
        for number in range(num_parts)
    }


def every_choice(parts: dict[str, list[Option]]) -> list[Option]:
    ranges = [range(len(options)) for options in parts.values()]
    return [total(parts, dict(zip(parts, numbers, strict=True))) for numbers in itertools.product(*ranges)]


def test_owl_follows_the_published_formula() -> None:
    shares = [0.010, 0.030, 0.020, 0.020]
    scaled = [(share - 0.010) / 0.020 * 2 * 0.08 for share in shares]
    mean = sum(scaled) / 4
    expected = [1 - (each - mean + 1 - 0.7) for each in scaled]
    assert owl(shares, 0.7) == pytest.approx(expected)
    assert sum(owl(shares, 0.7)) / 4 == pytest.approx(0.7)


def test_owl_prunes_blocks_with_more_outliers_less_and_equal_blocks_equally() -> None:
    low, high = owl([0.01, 0.05], 0.5)
    assert low > 0.5 > high
    assert owl([0.02, 0.02, 0.02], 0.6) == [0.6, 0.6, 0.6]


def test_owl_never_leaves_the_range_of_sparsities() -> None:
    assert min(owl([0.0, 1.0], 0.02)) == 0.0
    assert max(owl([0.0, 1.0], 0.98)) <= 0.99


def test_outliers_are_counted_over_all_linears_of_a_block_together() -> None:
    scores = [torch.ones(4, 4), torch.tensor([[1.0, 1.0, 100.0, 1.0]])]
    mean = (16 + 103) / 20
    assert outlier_share(scores, 5.0) == 1 / 20
    assert outlier_share(scores, 0.99 / mean) == 1.0


def test_the_hull_has_falling_losses_and_falling_gains() -> None:
    options = [
        Option(4, 1.0),
        Option(1, 9.0),
        Option(2, 8.5),
        Option(3, 2.0),
        Option(5, 1.5),
        Option(1, 10.0),
    ]
    assert hull(options) == [1, 3, 0]


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_within_the_cost_is_better_by_more_than_one_climb(seed: int) -> None:
    parts = random_parts(seed)
    budget = random.Random(seed).uniform(total(parts, cheapest(parts)).cost, 100)
    found = within_cost(parts, budget)
    assert found is not None
    assert total(parts, found).cost <= budget
    best = min(each.loss for each in every_choice(parts) if each.cost <= budget)
    assert best <= total(parts, found).loss <= best + max(climb.gain for climb in climbs(parts))


@pytest.mark.parametrize("seed", range(20))
def test_where_a_climb_ends_the_choice_is_the_best_of_all(seed: int) -> None:
    parts = random_parts(seed)
    spent = total(parts, cheapest(parts)).cost
    for climb in climbs(parts):
        spent += climb.cost
        found = within_cost(parts, spent)
        assert found is not None
        best = min(each.loss for each in every_choice(parts) if each.cost <= spent)
        assert total(parts, found).loss == pytest.approx(best)


@pytest.mark.parametrize("seed", range(10))
def test_a_limit_on_the_loss_is_kept_at_nearly_the_least_cost(seed: int) -> None:
    parts = random_parts(seed)
    least = min(each.loss for each in every_choice(parts))
    found = within_loss(parts, least + 0.5)
    assert found is not None
    assert total(parts, found).loss <= least + 0.5
    best = min(each.cost for each in every_choice(parts) if each.loss <= least + 0.5)
    assert total(parts, found).cost <= best + max(climb.cost for climb in climbs(parts))


def test_what_cannot_be_reached_is_none() -> None:
    parts = random_parts(0)
    assert within_cost(parts, total(parts, cheapest(parts)).cost - 1) is None
    assert within_loss(parts, min(each.loss for each in every_choice(parts)) - 1e-3) is None
