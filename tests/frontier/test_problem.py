"""What is learned from verified models."""

import pytest

from gossamer.frontier.problem import fitted_factors, ratio_of


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
