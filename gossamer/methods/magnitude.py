"""Magnitude: prune the weights of smallest |w|, within a layer or over all layers at once.

Source: Han et al. 2015 (arXiv 1506.02626, section 3); the global threshold: Gale et al. 2019 (arXiv
        1902.09574).
Shapes: O output features, I input features.
Cost:   one partial sort of the layer. Global: two readings of all weights, 512 KiB of counts, no copy of a
        weight.
"""

from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor

from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.pattern import Unstructured
from gossamer.methods.solve.settings import Evidence
from gossamer.methods.solve.target import PruneTarget


class Magnitude(PruneTarget):
    """Settings of magnitude pruning."""

    @model_validator(mode="after")
    def _global_is_one_threshold(self) -> Self:
        if self.scope == "global" and not isinstance(self.pattern, Unstructured):
            raise ValueError(
                f"one threshold over all layers goes with pattern 'unstructured', not '{self.pattern}'. Use"
                " scope layer, or leave the pattern out."
            )
        return self


class GlobalThreshold:
    """The exact k-th smallest |w| over many layers, k = round(sparsity * weights), in two readings of them.

    The bit pattern of a non-negative float32 grows with its value. The first reading counts the upper 16
    bits, the second the lower 16 bits within the one bin that holds the k-th value: update each weight,
    `refine`, update each weight again, `value`.
    """

    def __init__(self, sparsity: float) -> None:
        self.sparsity = sparsity
        self.num_weights = 0
        self._count_upper = torch.zeros(1 << 16, dtype=torch.int64, device="cpu")
        self._count_lower = torch.zeros(1 << 16, dtype=torch.int64, device="cpu")
        self._bin: int | None = None
        self._rank = 0

    def update(self, weight: Tensor) -> None:
        """Count the weights of one layer, float32 of any shape, pruned ones as zeros."""
        bits = weight.float().abs().reshape(-1).view(torch.int32)
        if self._bin is None:
            self._count_upper += torch.bincount(bits >> 16, minlength=1 << 16).cpu()
            self.num_weights += bits.numel()
        else:
            inside = bits[(bits >> 16) == self._bin]
            self._count_lower += torch.bincount(inside & 0xFFFF, minlength=1 << 16).cpu()

    def refine(self) -> None:
        """End the first reading."""
        assert self._bin is None, "refine is called once"
        target = round(self.sparsity * self.num_weights)
        self._bin, self._rank = _bin_of_rank(self._count_upper, target)

    def value(self) -> float:
        """Return the threshold t: |w| <= t is pruned. -1 if nothing is to be pruned."""
        assert self._bin is not None, "refine and a second reading come first"
        if self._rank == 0:
            return -1.0
        assert int(self._count_lower.sum()) == int(self._count_upper[self._bin]), "the two readings differ"
        lower, _ = _bin_of_rank(self._count_lower, self._rank)
        bits = torch.tensor([self._bin << 16 | lower], dtype=torch.int32, device="cpu")
        return bits.view(torch.float32).item()


def apply(
    layer: LayerWeight, statistic: Evidence | None, settings: Magnitude, notes: list[str]
) -> LayerWeight:
    """Return the layer without its smallest weights; RecipeError if it is quantized already.

    With scope global `statistic` is a `GlobalThreshold` that has read all layers of the step twice.
    Weights that are pruned already stay pruned and count towards the sparsity.
    """
    layer.require_changeable("magnitude")
    score_OI = layer.weight_OI.abs()
    if settings.scope == "layer":
        return layer.pruned(settings.pattern.keep_largest(score_OI, settings.share, layer.mask_OI))
    assert isinstance(statistic, GlobalThreshold), "scope global needs a GlobalThreshold"
    mask_OI = score_OI > statistic.value()
    if layer.mask_OI is not None:
        mask_OI &= layer.mask_OI
    if not bool(mask_OI.any()):
        notes.append("the global threshold prunes every weight of the layer")
    return layer.pruned(mask_OI)


def _bin_of_rank(counts: Tensor, rank: int) -> tuple[int, int]:
    """Return the bin that holds the rank-th smallest (from 1) and its rank within the bin; rank 0: (0, 0)."""
    if rank == 0:
        return 0, 0
    ends = counts.cumsum(0)
    index = int(torch.searchsorted(ends, rank))
    return index, rank - int(ends[index] - counts[index])
