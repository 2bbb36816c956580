"""SVD: a weight replaced by two factors, truncated where the outputs lose least (SVD-LLM, Wang et al. 2024, arXiv
2403.07378, section 3.2, "truncation-aware data whitening").

Minimises tr((W - A B) H (W - A B)^T) over A and B of the given rank, H the damped Gram matrix; with
methods/solve/align.py W is what gives the dense model's outputs. Scaling W by a diagonal of input magnitudes instead
(ASVD, Yuan et al. 2023, arXiv 2312.05821) is the same with the diagonal of H alone, and loses more.

Shapes: O output features, I input features, R the rank; K columns as methods/solve/low_rank.py says.
Cost:   8 K (2 O I + I^2) multiply-adds.
"""

from typing import ClassVar

import torch
from pydantic import Field

from gossamer.calibration.statistics import Gram, Statistic
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.linear_algebra import damped_factor
from gossamer.methods.solve.low_rank import LowRankTarget, best_factors
from gossamer.methods.solve.settings import Evidence


class SVD(LowRankTarget):
    """Settings of the truncated decomposition."""

    needs: ClassVar[type[Statistic] | None] = Gram
    DEFAULT_SHARE: ClassVar[float] = 0.5

    damping: float = Field(default=0.01, ge=0.0, le=1.0)
    """Added to the Gram matrix's diagonal, as a share of its mean; raised and reported if not enough."""


def apply(layer: LayerWeight, statistic: Evidence | None, settings: SVD, notes: list[str]) -> LayerWeight:
    """Return the layer as factors alone: no other weight is kept.

    RecipeError if the layer is quantized already, CalibrationError if the Gram matrix cannot be used.
    """
    assert isinstance(statistic, Gram), "svd needs Gram"
    layer.require_changeable("svd")
    hessian_II = damped_factor(statistic.value(), settings.damping, notes).damped_II.float()
    target_OI = layer.whole_target_OI
    factors = best_factors(target_OI, hessian_II, settings.rank_for(*target_OI.shape))
    return layer.with_factors(factors).pruned(torch.zeros_like(target_OI, dtype=torch.bool))
