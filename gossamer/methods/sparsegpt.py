"""SparseGPT: prune with optimal updates of the weights that stay (Frantar & Alistarh 2023, arXiv 2301.00774).

Inputs are fixed from the first to the last (algorithm 1). A weight costs w^2 / U_jj^2 (eq. 3, where U_jj^2
is the inverse Hessian's diagonal once the inputs before j are fixed); what pruning it loses is compensated
by the inputs after it. The mask is chosen adaptively, section 3.3: unstructured, over all rows of the next
`block_size` inputs, on weights already updated; N:M, when the first input of each group of M is reached.
Row-balanced counts in each row of the block and r x c blocks by the summed cost of a cell (not in the
paper).

Shapes: O output features, I input features, B inputs of a block.
Cost:   O * I^2 multiply-adds and a Cholesky factor of I x I.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gossamer.calibration.statistics import Gram, Statistic
from gossamer.methods.solve.feedback import Fixing, fix_inputs
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.linear_algebra import inverse_factor
from gossamer.methods.solve.pattern import NM, Block, RowWindows
from gossamer.methods.solve.settings import Evidence
from gossamer.methods.solve.target import PruneTarget


class SparseGPT(PruneTarget):
    """Settings of SparseGPT."""

    needs: ClassVar[type[Statistic] | None] = Gram

    damping: float = Field(default=0.01, ge=0.0, le=1.0)
    """Added to the Gram matrix's diagonal, as a share of its mean; raised and reported if not enough."""
    block_size: int = Field(default=128, ge=1, le=4096)
    """Inputs for which the mask is chosen at once (whole columns of block cells; N:M: always M)."""


def apply(
    layer: LayerWeight, statistic: Evidence | None, settings: SparseGPT, notes: list[str]
) -> LayerWeight:
    """Return the pruned layer with its kept weights updated.

    Weights that are pruned already stay zero and count towards the sparsity. Weights of dead inputs become
    zero, as published. RecipeError if the layer is quantized already, CalibrationError if the Gram matrix
    cannot be used.
    """
    assert isinstance(statistic, Gram), "sparsegpt needs Gram"
    layer.require_changeable("sparsegpt")
    factor = inverse_factor(statistic.value(), settings.damping, notes)
    weight_IO = layer.weight_OI.T.clone(memory_format=torch.contiguous_format)
    weight_IO[factor.dead_I] = 0.0
    mask_OI = layer.weight_OI.new_empty(layer.weight_OI.shape, dtype=torch.bool)
    diagonal_I = factor.upper_II.diagonal()

    kept_IO = torch.empty_like(weight_IO)

    def begin_window(start: int, stop: int) -> None:
        cost_OB = (weight_IO[start:stop] / diagonal_I[start:stop, None]).square_().T.contiguous()
        mask_OB = _choose(cost_OB, start, layer.mask_OI, settings)
        mask_OI[:, start:stop] = mask_OB
        kept_IO[start:stop] = mask_OB.T

    fixing = Fixing(weight_IO, factor.upper_II, kept_IO, None)
    fix_inputs(fixing, _window_size(settings), begin_window, settings.block_size)
    return layer.with_weight(weight_IO.T.contiguous()).pruned(mask_OI)


def _window_size(settings: SparseGPT) -> int:
    """Return for how many inputs the mask is chosen at once."""
    match settings.pattern:
        case NM(m=m) | RowWindows(m=m):
            return m
        case Block(cols=cols):
            return max(settings.block_size // cols, 1) * cols
        case _:
            return settings.block_size


def _choose(cost_OB: Tensor, start: int, within_OI: Tensor | None, settings: SparseGPT) -> Tensor:
    """Return the mask of the inputs from `start` on, such that the counts of all blocks add up exactly."""
    num_rows, width = cost_OB.shape
    within_OB = None if within_OI is None else within_OI[:, start : start + width]
    pattern, share = settings.pattern, settings.share
    if isinstance(pattern, NM | RowWindows):
        return pattern.keep_largest(cost_OB, share, within_OB)
    before = pattern.num_kept(num_rows, start, share)
    return pattern.keep(cost_OB, pattern.num_kept(num_rows, start + width, share) - before, within_OB)
