"""The damped inverse of a Gram matrix in the triangular form that SparseGPT and GPTQ consume.

Both need the upper Cholesky factor U of the inverse, H^-1 = U^T U with H = G + damping * mean(diag G) * I
(GPTQ, arXiv 2210.17323, section 3, "Cholesky reformulation"): row j of U holds, up to the factor U_jj, the
row of the inverse that remains once inputs 0..j-1 are fixed. Published code inverts H and factors the
inverse; here the reversed matrix is factored and the triangle inverted, which gives the same U with one
factorization less and smaller rounding errors: with R upper and H = R R^T, U = R^-1.

I input features.
Cost: about 2/3 I^3 multiply-adds in float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.errors import CalibrationError

STRONGEST_DAMPING = 1.0


@dataclass(frozen=True, slots=True)
class DampedFactor:
    """What `damped_factor` returns."""

    damped_II: Tensor
    """float64: H = G + damping * mean(diag G) * I, dead inputs apart from all others."""
    lower_II: Tensor
    """float64: the Cholesky factor, H = L L^T."""
    dead_I: Tensor
    """bool: inputs that were zero in all calibration data; they influence no other input."""
    damping: float
    """The damping that was used, a share of the mean diagonal."""


@dataclass(frozen=True, slots=True)
class InverseFactor:
    """What `inverse_factor` returns."""

    upper_II: Tensor
    """float32, upper triangular: U^T U is the inverse of the damped Gram matrix."""
    dead_I: Tensor
    """bool: inputs that were zero in all calibration data; they influence no other input."""
    damping: float
    """The damping that was used, a share of the mean diagonal."""


def inverse_factor(gram_II: Tensor, damping: float, notes: list[str]) -> InverseFactor:
    """Return U of H^-1 = U^T U; as `damped_factor` otherwise."""
    factor = damped_factor(gram_II.flip(0, 1), damping, notes)
    lower_II, dead_I, damping = factor.lower_II, factor.dead_I.flip(0), factor.damping
    del factor  # with the damped matrix, which is as large as all that follows
    inverse_II = torch.eye(gram_II.shape[0], dtype=torch.float64).T  # by columns, as LAPACK solves in place
    torch.linalg.solve_triangular(lower_II, inverse_II, upper=False, out=inverse_II)
    del lower_II
    return InverseFactor(inverse_II.float().flip(0, 1).contiguous(), dead_I, damping)


def damped_factor(gram_II: Tensor, damping: float, notes: list[str]) -> DampedFactor:
    """Return the damped matrix and its Cholesky factor; what had to be done to get there is added to the notes.

    Dead inputs get the mean diagonal of the live ones, which keeps them apart from all others. If the
    damped matrix is not positive definite the damping is raised tenfold, from 0.01 at least, up to 1;
    CalibrationError if that is not enough, if G is not finite, or if every input is dead.
    """
    if not bool(torch.isfinite(gram_II).all()):
        raise CalibrationError(
            "the Gram matrix of the inputs holds NaN or infinite values, finite ones were expected."
            " The inputs are too large for float32: check the parent model or the steps before this one."
        )
    hessian_II = gram_II.double()
    diagonal_I = hessian_II.diagonal().clone()
    dead_I = diagonal_I <= 0
    if bool(dead_I.all()):
        raise CalibrationError(
            "every input of the layer is zero in all calibration data, so nothing can be learned from it."
            " Give other samples, or leave the layer out or use magnitude or rtn for it."
        )
    if dead := int(dead_I.sum()):
        notes.append(f"{dead} of {dead_I.numel()} inputs are zero in all calibration data")
        hessian_II = hessian_II.masked_fill(dead_I[:, None] | dead_I[None, :], 0.0)
    mean = float(diagonal_I[~dead_I].mean())
    diagonal_I[dead_I] = mean
    strength = damping
    while True:
        hessian_II.diagonal().copy_(diagonal_I + strength * mean)
        lower_II, failed = torch.linalg.cholesky_ex(hessian_II)
        if not bool(failed):
            break
        if strength >= STRONGEST_DAMPING:
            raise CalibrationError(
                f"the Gram matrix of the inputs is not positive definite, even with damping {strength:g} of"
                " its mean diagonal. It is damaged or was merged from different layers: calibrate again."
            )
        strength = min(max(10 * strength, 0.01), STRONGEST_DAMPING)
    if strength != damping:
        notes.append(
            f"the Gram matrix is not positive definite: damping raised from {damping:g} to {strength:g}"
        )
    return DampedFactor(hessian_II, lower_II, dead_I, strength)
