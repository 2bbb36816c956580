"""SparseSwaps: exchange kept weights for pruned ones while the layer's error falls (2025, arXiv 2512.10922).

For a row with errors e (the weight itself where it is pruned, 0 where it is kept) the loss is L = e^T H e. With
c = H e, pruning p instead of u changes it by exactly

    dL = [2 w_p c_p + w_p^2 H_pp] + [-2 w_u c_u + w_u^2 H_uu] - 2 w_p w_u H_pu.

The best pair of each row is exchanged as long as dL < 0, from Wanda's mask on; both brackets are cut to their
`CANDIDATES` best weights before the last term is added. N:M exchanges inside its windows, one window after the other.
The kept weights are then refitted by conjugate gradients (methods/solve/conjugate.py).

Shapes: O output features, I input features, N inputs of a window (m, or all), K candidates.
Cost:   O * (I + K^2) for each exchange of a row, and O * I^2 multiply-adds a step of the refit.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gossamer.calibration.statistics import Gram, Statistic
from gossamer.errors import RecipeError
from gossamer.methods.solve.conjugate import fit_kept_scaled
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.linear_algebra import damped_factor
from gossamer.methods.solve.pattern import NM, Block, RowBalanced, RowWindows, Unstructured
from gossamer.methods.solve.settings import Evidence
from gossamer.methods.solve.target import PruneTarget

CANDIDATES = 16


class Swaps(PruneTarget):
    """Settings of SparseSwaps. Unstructured keeps the same number in every row, as published."""

    needs: ClassVar[type[Statistic] | None] = Gram

    swaps: int = Field(default=100, ge=1, le=100_000)
    """Exchanges tried in each row; for N:M at least one in each window."""
    refit: int = Field(default=8, ge=0, le=1000)
    """Steps of conjugate gradients on the final mask."""
    damping: float = Field(default=0.01, ge=0.0, le=1.0)
    """Added to the Gram matrix's diagonal, as a share of its mean; raised and reported if not enough."""

    @property
    def by_row(self) -> bool:
        return True


def apply(layer: LayerWeight, statistic: Evidence | None, settings: Swaps, notes: list[str]) -> LayerWeight:
    """Return the pruned layer with its kept weights fitted.

    Weights that are pruned already stay zero. RecipeError for blocks, or if the layer is quantized already;
    CalibrationError if the Gram matrix cannot be used.
    """
    assert isinstance(statistic, Gram), "swaps needs Gram"
    if isinstance(settings.pattern, Block):
        raise RecipeError("swaps exchanges single weights, not blocks. Use admm or sparsegpt for blocks.")
    layer.require_changeable("swaps")
    damped_II = damped_factor(statistic.value(), settings.damping, notes).damped_II.float()
    pattern = RowBalanced() if isinstance(settings.pattern, Unstructured) else settings.pattern
    score_OI = layer.target_OI.abs() * damped_II.diagonal().sqrt()
    mask_OI = pattern.keep_largest(score_OI, settings.share, layer.mask_OI)
    window = pattern.m if isinstance(pattern, NM | RowWindows) else mask_OI.shape[1]
    mask_OI = exchange(mask_OI, layer.mask_OI, layer.target_OI, damped_II, window, settings.swaps)
    weight_OI = fit_kept_scaled(layer.target_OI, mask_OI, layer.target_OI, damped_II, settings.refit)
    return layer.with_weight(weight_OI).pruned(mask_OI)


def exchange(
    mask_OI: Tensor, within_OI: Tensor | None, weight_OI: Tensor, hessian_II: Tensor, window: int, swaps: int
) -> Tensor:
    """Return a mask with as many kept weights in each window of a row, and no larger loss.

    Only weights where `within_OI` is True may be kept. The last window may be shorter.
    """
    mask_OI = mask_OI.clone()
    slope_OI = weight_OI.masked_fill(mask_OI, 0.0) @ hessian_II
    starts = range(0, mask_OI.shape[1], window)
    for _ in range(max(1, swaps // len(starts))):
        changed = False
        for start in starts:
            part = slice(start, min(start + window, mask_OI.shape[1]))
            changed |= _exchange_once(mask_OI, within_OI, weight_OI, hessian_II, slope_OI, part)
        if not changed:
            break
    return mask_OI


def _exchange_once(
    mask_OI: Tensor,
    within_OI: Tensor | None,
    weight_OI: Tensor,
    hessian_II: Tensor,
    slope_OI: Tensor,
    part: slice,
) -> bool:
    """Exchange the best pair of a window in every row where that helps, in place; False if in none."""
    kept_ON, weight_ON, slope_ON = mask_OI[:, part], weight_OI[:, part], slope_OI[:, part]
    own_ON = weight_ON.square() * hessian_II.diagonal()[part]
    free_ON = ~kept_ON if within_OI is None else ~kept_ON & within_OI[:, part]
    out_ON = torch.addcmul(own_ON, weight_ON, slope_ON, value=2).masked_fill_(~kept_ON, torch.inf)
    in_ON = torch.addcmul(own_ON, weight_ON, slope_ON, value=-2).masked_fill_(~free_ON, torch.inf)
    num_candidates = min(CANDIDATES, own_ON.shape[1])
    loss_OK, out_OK = out_ON.topk(num_candidates, largest=False)
    gain_OK, in_OK = in_ON.topk(num_candidates, largest=False)
    out_OK, in_OK = out_OK + part.start, in_OK + part.start
    cross_OKK = hessian_II[out_OK[:, :, None], in_OK[:, None]]
    cross_OKK *= weight_OI.gather(1, out_OK)[:, :, None] * weight_OI.gather(1, in_OK)[:, None]
    change_OKK = loss_OK[:, :, None] + gain_OK[:, None] - 2 * cross_OKK
    change_O, pair_O = change_OKK.flatten(1).min(1)
    row_R = (change_O < 0).nonzero()[:, 0]
    if not len(row_R):
        return False
    out_R = out_OK[row_R, pair_O[row_R] // num_candidates]
    in_R = in_OK[row_R, pair_O[row_R] % num_candidates]
    mask_OI[row_R, out_R], mask_OI[row_R, in_R] = False, True
    slope_OI[row_R] += (
        weight_OI[row_R, out_R, None] * hessian_II[out_R] - weight_OI[row_R, in_R, None] * hessian_II[in_R]
    )
    return True
