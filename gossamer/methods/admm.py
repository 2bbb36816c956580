"""ADMM: mask and weights of a pruned layer found together (Boza 2024, arXiv 2401.02938; ALPS, Meng et al. 2024,
arXiv 2406.07831).

Minimises tr((W - W0) H (W - W0)^T) over W with a given number of weights kept, H the damped Gram matrix, with
inputs scaled to unit norm. Two copies of the weight are drawn together by the penalty rho:

    Z = the largest entries of W + U, the others zero      (projection on the pattern)
    U = U + W - Z
    W = (W0 H + rho (Z - U)) (H + rho I)^-1                (ALPS, eq. 6)

While rho grows (by `GROWTH` every `UPDATE` iterations) the support settles; the weights are then refitted on it
by conjugate gradients (methods/conjugate.py). Unlike SparseGPT, no input is decided before the others are seen.

Shapes: O output features, I input features.
Cost:   O * I^2 multiply-adds an iteration, an inverse of I x I for each value of rho.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gossamer.calibration.statistics import Gram, Statistic
from gossamer.methods.conjugate import fit_kept
from gossamer.methods.layer_weight import LayerWeight
from gossamer.methods.linear_algebra import damped_factor
from gossamer.methods.target import PruneTarget

PENALTY, GROWTH, UPDATE = 0.3, 1.6, 5


class ADMM(PruneTarget):
    """Settings of ADMM."""

    needs: ClassVar[type[Statistic] | None] = Gram

    iterations: int = Field(default=20, ge=1, le=1000)
    """Rounds of the two updates; more than 20 gained nothing at 50 %."""
    refit: int = Field(default=8, ge=0, le=1000)
    """Steps of conjugate gradients on the final mask."""
    damping: float = Field(default=0.01, ge=0.0, le=1.0)
    """Added to the Gram matrix's diagonal, as a share of its mean; raised and reported if not enough."""


def apply(layer: LayerWeight, statistic: Statistic | None, settings: ADMM, notes: list[str]) -> LayerWeight:
    """Return the pruned layer with its kept weights fitted.

    Weights that are pruned already stay zero and count towards the sparsity. RecipeError if the layer is
    quantized already, CalibrationError if the Gram matrix cannot be used.
    """
    assert isinstance(statistic, Gram), "admm needs Gram"
    layer.require_changeable("admm")
    damped_II = damped_factor(statistic.value(), settings.damping, notes).damped_II
    scale_I = damped_II.diagonal().rsqrt()
    hessian_II = (scale_I[:, None] * damped_II * scale_I).float()
    target_OI = layer.target_OI / scale_I.float()
    fitted_OI, mask_OI = _alternate(target_OI, hessian_II, layer.mask_OI, settings)
    fitted_OI = fit_kept(fitted_OI, mask_OI, target_OI, hessian_II, settings.refit)
    return layer.with_weight(fitted_OI * scale_I.float()).pruned(mask_OI)


def _alternate(
    target_OI: Tensor, hessian_II: Tensor, within_OI: Tensor | None, settings: ADMM
) -> tuple[Tensor, Tensor]:
    """Return the weight after the last iteration, and the mask of its largest entries."""
    pull_OI = target_OI @ hessian_II
    weight_OI, dual_OI = target_OI, torch.zeros_like(target_OI)
    penalty = PENALTY
    inverse_II = _inverse(hessian_II, penalty)
    for iteration in range(settings.iterations):
        if iteration and iteration % UPDATE == 0:
            penalty *= GROWTH
            dual_OI /= GROWTH
            inverse_II = _inverse(hessian_II, penalty)
        sum_OI = weight_OI + dual_OI
        mask_OI = settings.pattern.keep_largest(sum_OI.square(), settings.share, within_OI)
        dual_OI = sum_OI.masked_fill(mask_OI, 0.0)
        difference_OI = torch.where(mask_OI, sum_OI, -sum_OI)  # Z - U
        weight_OI = difference_OI.mul_(penalty).add_(pull_OI) @ inverse_II
    sum_OI = weight_OI + dual_OI
    return weight_OI, settings.pattern.keep_largest(sum_OI.square(), settings.share, within_OI)


def _inverse(hessian_II: Tensor, penalty: float) -> Tensor:
    """Return (H + penalty * I)^-1; with inputs of unit norm the penalty keeps it well-conditioned in float32."""
    shifted_II = hessian_II.clone()
    shifted_II.diagonal().add_(penalty)
    return torch.cholesky_inverse(torch.linalg.cholesky(shifted_II))
