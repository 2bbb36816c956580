"""The interval: deterministic, paired, and covering as often as it says."""

import math

import numpy as np
import pytest

from gossamer.errors import UsageError
from gossamer.evaluation.quality.bootstrap import perplexity_ratio_ci95


def test_the_interval_covers_the_true_ratio_about_95_times_of_100() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        parent = generator.normal(3.0, 0.5, 40)
        nll = parent + generator.normal(0.05, 0.02, 40)
        low, high = perplexity_ratio_ci95(nll, parent, resamples=1000, seed=trial) or (0, 0)
        covered += low <= math.exp(0.05) <= high
    assert 0.89 <= covered / 300 <= 0.985


def test_what_is_hard_for_both_cancels() -> None:
    parent = np.random.default_rng(0).normal(3.0, 1.0, 50)
    low, high = perplexity_ratio_ci95(parent + 0.1, parent) or (0, 0)
    assert low == pytest.approx(math.exp(0.1))
    assert high == pytest.approx(math.exp(0.1))


def test_the_interval_matches_the_normal_approximation_for_many_windows() -> None:
    difference = np.random.default_rng(1).normal(0.1, 0.05, 2000)
    low, high = perplexity_ratio_ci95(difference, np.zeros(2000), seed=5) or (0, 0)
    margin = 1.96 * difference.std() / math.sqrt(2000)
    assert math.log(low) == pytest.approx(difference.mean() - margin, abs=2e-4)
    assert math.log(high) == pytest.approx(difference.mean() + margin, abs=2e-4)


def test_the_seed_alone_decides() -> None:
    nll, parent = [1.0, 2.0, 3.5], [1.1, 1.7, 3.0]
    assert perplexity_ratio_ci95(nll, parent, seed=1) == perplexity_ratio_ci95(nll, parent, seed=1)


def test_weights_count_as_tokens_do() -> None:
    nll, parent = [1.0, 2.0], [0.0, 0.0]
    low, high = perplexity_ratio_ci95(nll, parent, [3, 1]) or (0, 0)
    assert low == pytest.approx(math.e)  # both drawn the first
    assert high == pytest.approx(math.e**2)


def test_one_window_gives_no_interval_and_unequal_lengths_are_refused() -> None:
    assert perplexity_ratio_ci95([1.0], [1.0]) is None
    with pytest.raises(UsageError, match="same windows"):
        perplexity_ratio_ci95([1.0, 2.0], [1.0])
