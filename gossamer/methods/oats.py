"""OATS: a sparse and a low-rank part by alternating thresholding (Zhang, Papyan 2024, arXiv 2409.13652, algorithm 1).

The weight is scaled by the norm of its inputs, W D with D = diag(sqrt(mean x_j^2)), and split by turns:

    L = the best matrix of rank R for W D - S        (truncated singular values)
    S = the largest entries of W D - L                (of each row, as the paper does)

from S = 0; in the end both are divided by D. The paper's compression rate p and rank ratio k say the same as
sparsity = 1 - (1 - k) (1 - p) and rank_share = k (1 - p) here.

Shapes: O output features, I input features, R the rank; K columns as methods/solve/low_rank.py says.
Cost:   3 K O I multiply-adds and a partial sort for each of the iterations; no Gram matrix.
"""

from typing import ClassVar

import torch
from pydantic import Field

from gossamer.calibration.statistics import Gram, InputNorm, Statistic
from gossamer.formats.factors import Factors
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.low_rank import LowRankTarget, start, turn, within
from gossamer.methods.solve.pattern import RowBalanced, Unstructured
from gossamer.methods.solve.settings import Evidence
from gossamer.methods.solve.target import PruneTarget


class OATS(PruneTarget, LowRankTarget):
    """Settings of OATS; sparsity and pattern are those of the sparse part alone."""

    needs: ClassVar[type[Statistic] | None] = InputNorm

    iterations: int = Field(default=80, ge=1, le=1000)
    """Turns of the two parts."""


def apply(layer: LayerWeight, statistic: Evidence | None, settings: OATS, notes: list[str]) -> LayerWeight:
    """Return the layer as a sparse part and factors; weights that are pruned already stay out of the sparse part.

    RecipeError if the layer is quantized already.
    """
    assert isinstance(statistic, InputNorm | Gram), "oats needs InputNorm or Gram"
    layer.require_changeable("oats")
    norm_I = statistic.norms()
    if dead := int((norm_I == 0).sum()):
        notes.append(f"{dead} of {norm_I.numel()} inputs are zero in all calibration data: pruned first")
    scale_I = norm_I.clamp_min(1e-6 * float(norm_I.max()))
    target_OI = layer.whole_target_OI * scale_I
    rank = settings.rank_for(*target_OI.shape)
    pattern = RowBalanced() if isinstance(settings.pattern, Unstructured) else settings.pattern
    identity_II = torch.eye(len(scale_I), device=scale_I.device)
    sparse_OI = torch.zeros_like(target_OI)
    basis_OK = start(target_OI, rank)
    for _ in range(settings.iterations):
        rest_OI = target_OI - sparse_OI
        basis_OK = turn(rest_OI, identity_II, basis_OK)
        left_OR, right_RI = within(rest_OI, identity_II, basis_OK, rank)
        rest_OI = target_OI - left_OR @ right_RI
        mask_OI = pattern.keep_largest(rest_OI.square(), settings.share, layer.mask_OI)
        sparse_OI = rest_OI.masked_fill(~mask_OI, 0.0)
    factors = Factors.rounded(left_OR, right_RI / scale_I)
    return layer.with_factors(factors).with_weight(sparse_OI / scale_I).pruned(mask_OI)
