"""Aim at the dense model: shift a weight so that it makes up for what the layers before have lost.

A linear that sees x' where the dense model saw x should give W x, not W x'. And if its output is added to a
residual stream, it can also give back what that stream lacks: r - r'. The least squares answer, pulled to what it was
where the inputs say little, is

    W* = W' + E[(W x + r - r' - W' x') x'^T] (G + damping * mean(diag G) * I)^-1,   G = E[x' x'^T],

with W' = W at first, or what an earlier step has made of it. What is missing is mostly noise of quantized or pruned
layers before, and every linear could fit a part of it by chance, the same tokens again and again: the damping that
serves unseen text is large, and falls with the number of tokens as a ridge's does.

The first part is GPTAQ's asymmetric calibration (Li et al. 2025, arXiv 2504.02692, eq. 5) in closed form for
the whole matrix; the residual part is ours. Methods that follow then approximate W* on G.

Shapes: O output features, I input features.
Cost:   a Cholesky factor of I x I, O * I^2 multiply-adds.
"""

import torch
from torch import Tensor

from gossamer.calibration.statistics import Moments
from gossamer.methods.solve.linear_algebra import damped_factor

RIDGE_TOKENS = 32_768
"""Damping times tokens. On 16,384 tokens 0.03 leaves 25 % more error on unseen text than 1 (docs/log.md)."""

ROWS_AT_ONCE = 1024
"""Solved for in float64."""


def aligned(dense_OI: Tensor, weight_OI: Tensor, moments: Moments, notes: list[str]) -> Tensor:
    """Return the weight W* for the dense weight W and the present one W', float32.

    Dead inputs keep their weights. CalibrationError if the moments are not finite or the Gram matrix is not
    positive definite.
    """
    lower_II = damped_factor(moments.value(), RIDGE_TOKENS / moments.num_tokens, notes).lower_II
    change_OI = moments.missing(dense_OI, weight_OI)
    for rows_RI in change_OI.split(ROWS_AT_ONCE):
        # by columns LAPACK solves in place, where cholesky_solve copies the factor
        x_IR = rows_RI.double().T
        torch.linalg.solve_triangular(lower_II, x_IR, upper=False, out=x_IR)
        torch.linalg.solve_triangular(lower_II.T, x_IR, upper=True, out=x_IR)
        rows_RI.copy_(x_IR.T)
    return change_OI.add_(weight_OI)
