"""The ADMM that `admm` and `basil` share: a mask and the weights on it, drawn together by a growing penalty.

Boza 2024, arXiv 2401.02938; ALPS, Meng et al. 2024, arXiv 2406.07831, eq. 6; methods/admm.py says what is minimised.
Inputs are scaled to unit norm, so that one penalty serves all of them.

Shapes: O output features, I input features.
Cost:   O * I^2 multiply-adds an iteration, an inverse of I x I for each value of the penalty.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gossamer.methods.solve.linear_algebra import damped_factor
from gossamer.methods.solve.target import PruneTarget

PENALTY, GROWTH, UPDATE = 0.3, 1.6, 5


def unit_norm(gram_II: Tensor, damping: float, notes: list[str]) -> tuple[Tensor, Tensor]:
    """Return the damped Gram matrix of inputs scaled to unit norm, and the scale [I]; errors as `damped_factor`."""
    damped_II = damped_factor(gram_II, damping, notes).damped_II
    scale_I = damped_II.diagonal().rsqrt()
    return (scale_I[:, None] * damped_II * scale_I).float(), scale_I.float()


def alternate(
    target_OI: Tensor,
    hessian_II: Tensor,
    within_OI: Tensor | None,
    prune: PruneTarget,
    iterations: int,
    taken_over: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weight after the last iteration, and the mask of its largest entries, only within `within_OI`.

    Args:
        taken_over: given the pruned copy of the weight, returns L H for the part L of the target that something else
            will give (the low-rank part of 3BASiL).
    """
    pull_OI = target_OI @ hessian_II
    weight_OI, dual_OI = target_OI, torch.zeros_like(target_OI)
    penalty = PENALTY
    inverse_II = _inverse(hessian_II, penalty)
    for iteration in range(iterations):
        if iteration and iteration % UPDATE == 0:
            penalty *= GROWTH
            dual_OI /= GROWTH
            inverse_II = _inverse(hessian_II, penalty)
        sum_OI = weight_OI + dual_OI
        mask_OI = prune.pattern.keep_largest(sum_OI.square(), prune.share, within_OI)
        dual_OI = sum_OI.masked_fill(mask_OI, 0.0)
        right_OI = torch.where(mask_OI, sum_OI, -sum_OI).mul_(penalty).add_(pull_OI)  # rho (Z - U) + W H
        if taken_over is not None:
            right_OI -= taken_over(sum_OI - dual_OI)
        weight_OI = right_OI @ inverse_II
    sum_OI = weight_OI + dual_OI
    return weight_OI, prune.pattern.keep_largest(sum_OI.square(), prune.share, within_OI)


def _inverse(hessian_II: Tensor, penalty: float) -> Tensor:
    """Return (H + penalty * I)^-1; with inputs of unit norm the penalty keeps it well-conditioned in float32."""
    shifted_II = hessian_II.clone()
    shifted_II.diagonal().add_(penalty)
    return torch.cholesky_inverse(torch.linalg.cholesky(shifted_II))
