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

    gram_II: Tensor
    """The matrix that it was given."""
    diagonal_I: Tensor
    """float64: what the diagonal became."""
    lower_II: Tensor
    """float64: the Cholesky factor, H = L L^T."""
    dead_I: Tensor
    """bool: inputs that were zero in all calibration data; they influence no other input."""
    damping: float
    """The damping that was used, a share of the mean diagonal."""

    @property
    def damped_II(self) -> Tensor:
        """float64: H = G + damping * mean(diag G) * I, dead inputs apart from all others."""
        return _with_diagonal(self.gram_II, self.dead_I, self.diagonal_I)


@dataclass(frozen=True, slots=True)
class InverseFactor:
    """What `inverse_factor` returns."""

    upper_II: Tensor
    """float32, upper triangular: U^T U is the inverse of the damped Gram matrix."""
    dead_I: Tensor
    """bool: inputs that were zero in all calibration data; they influence no other input."""
    damping: float
    """The damping that was used, a share of the mean diagonal."""


def inverse_factor(
    gram_II: Tensor, damping: float, notes: list[str], order_I: Tensor | None = None
) -> InverseFactor:
    """Return U of H^-1 = U^T U, the inputs in the order given; as `damped_factor` otherwise."""
    if order_I is None:
        order_I = torch.arange(len(gram_II), device=gram_II.device)
    last_first_I = order_I.flip(0)
    gram_II = gram_II[last_first_I[:, None], last_first_I]  # lets go of the one that was given
    factor = damped_factor(gram_II, damping, notes)
    lower_II, dead_I, damping = factor.lower_II, factor.dead_I.flip(0), factor.damping
    del factor, gram_II
    # by columns, as LAPACK solves in place
    inverse_II = torch.eye(len(lower_II), dtype=torch.float64, device=lower_II.device).T
    torch.linalg.solve_triangular(lower_II, inverse_II, upper=False, out=inverse_II)
    del lower_II
    inverse_II = inverse_II.float()
    return InverseFactor(inverse_II.flip(0, 1).contiguous(), dead_I, damping)


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
    diagonal_I = gram_II.diagonal().double()
    dead_I = diagonal_I <= 0
    if bool(dead_I.all()):
        raise CalibrationError(
            "every input of the layer is zero in all calibration data, so nothing can be learned from it."
            " Give other samples, or leave the layer out or use magnitude or rtn for it."
        )
    if dead := int(dead_I.sum()):
        notes.append(f"{dead} of {dead_I.numel()} inputs are zero in all calibration data")
    mean = float(diagonal_I[~dead_I].mean())
    diagonal_I[dead_I] = mean
    strength = damping
    failed = torch.empty((), dtype=torch.int32, device=gram_II.device)
    while True:
        damped_I = diagonal_I + strength * mean
        lower_II = _with_diagonal(
            gram_II, dead_I, damped_I
        ).T  # by columns: LAPACK works in place, without a copy
        torch.linalg.cholesky_ex(lower_II, out=(lower_II, failed))
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
    return DampedFactor(gram_II, damped_I, lower_II, dead_I, strength)


def _with_diagonal(gram_II: Tensor, dead_I: Tensor, diagonal_I: Tensor) -> Tensor:
    """The matrix in float64 with another diagonal, and nothing beside it for dead inputs."""
    matrix_II = gram_II.to(torch.float64, copy=True)
    if bool(dead_I.any()):
        matrix_II.masked_fill_(dead_I[:, None] | dead_I[None, :], 0.0)
    matrix_II.diagonal().copy_(diagonal_I)
    return matrix_II
