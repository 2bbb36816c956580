"""Conjugate gradients inside a mask, for all rows of a weight at once.

For each row, argmin over w with the given support of (w - t)^T H (w - t). Exact solutions need a factor of size
|support|^3 for each row; with gradient and direction masked one product with H serves all rows (ALPS, Meng et
al. 2024, arXiv 2406.07831, algorithm 2), and the start is close to the solution.

Shapes: O output features, I input features.
Cost:   O * I^2 multiply-adds an iteration.
"""

import torch
from torch import Tensor


def fit_kept(
    weight_OI: Tensor, mask_OI: Tensor, target_OI: Tensor, hessian_II: Tensor, iterations: int
) -> Tensor:
    """Return the weights after `iterations` steps of conjugate gradients inside the mask, from `weight_OI` on."""
    kept_OI = mask_OI.float()
    weight_OI = weight_OI * kept_OI
    residual_OI = ((target_OI - weight_OI) @ hessian_II).mul_(kept_OI)
    direction_OI = residual_OI.clone()
    norm_O1 = residual_OI.square().sum(1, keepdim=True)
    for _ in range(iterations):
        image_OI = (direction_OI @ hessian_II).mul_(kept_OI)
        step_O1 = _ratio(norm_O1, (direction_OI * image_OI).sum(1, keepdim=True))
        weight_OI.addcmul_(direction_OI, step_O1)
        residual_OI.addcmul_(image_OI, step_O1, value=-1)
        next_O1 = residual_OI.square().sum(1, keepdim=True)
        direction_OI.mul_(_ratio(next_O1, norm_O1)).add_(residual_OI)
        norm_O1 = next_O1
    return weight_OI


def fit_kept_scaled(
    weight_OI: Tensor, mask_OI: Tensor, target_OI: Tensor, hessian_II: Tensor, iterations: int
) -> Tensor:
    """Return what `fit_kept` does with inputs scaled to unit norm, which is their diagonal preconditioner."""
    scale_I = hessian_II.diagonal().rsqrt()
    scaled_II = scale_I[:, None] * hessian_II * scale_I
    return fit_kept(weight_OI / scale_I, mask_OI, target_OI / scale_I, scaled_II, iterations) * scale_I


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Return the quotient, 0 where there is nothing left to divide by: such a row is solved."""
    return torch.where(below > 0, above / below.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
