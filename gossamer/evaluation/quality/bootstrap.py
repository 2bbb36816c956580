"""Confidence intervals by resampling windows: how far a ratio of perplexities depends on the text chosen.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile interval). The
windows are resampled in pairs, as both models saw the same text (Koehn 2004, "Statistical significance tests
for machine translation evaluation"): what is hard in a window is hard for both, and cancels.

Shapes: N windows, R resamples.
"""

from collections.abc import Sequence

import numpy as np

from gossamer.errors import UsageError

_CHUNK_ENTRIES = 4_000_000


def perplexity_ratio_ci95(
    nll: Sequence[float],
    parent_nll: Sequence[float],
    tokens_per_window: Sequence[int] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the 95 % interval of perplexity / parent's perplexity, or None for fewer than two windows.

    `nll` and `parent_nll` are mean cross entropies (nats) of the same windows, `tokens_per_window` their
    weights (equal when not given). The same input and seed always give the same interval.

    Raises UsageError when the lengths differ.
    """
    counts = [1] * len(nll) if tokens_per_window is None else tokens_per_window
    if not len(nll) == len(parent_nll) == len(counts):
        raise UsageError(
            f"bootstrap: expected the same windows for both, got {len(nll)} and {len(parent_nll)} "
            f"with {len(counts)} weights."
        )
    if len(nll) < 2:
        return None
    weight_N = np.asarray(counts, dtype=np.float64)
    difference_N = weight_N * (np.asarray(nll, dtype=np.float64) - np.asarray(parent_nll, dtype=np.float64))
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK_ENTRIES // len(nll))
    means: list[np.ndarray] = []
    for start in range(0, resamples, step):
        index_RN = generator.integers(0, len(nll), size=(min(step, resamples - start), len(nll)))
        means.append(difference_N[index_RN].sum(axis=1) / weight_N[index_RN].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    with np.errstate(over="ignore"):  # a hopeless model: the ratio is infinite
        return float(np.exp(low)), float(np.exp(high))
