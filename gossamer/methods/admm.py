"""ADMM: mask and weights of a pruned layer found together (Boza 2024, arXiv 2401.02938; ALPS, Meng et al. 2024,
arXiv 2406.07831).

Minimises tr((W - W0) H (W - W0)^T) over W with a given number of weights kept, H the damped Gram matrix, with
inputs scaled to unit norm. Two copies of the weight are drawn together by the penalty rho:

    Z = the largest entries of W + U, the others zero      (projection on the pattern)
    U = U + W - Z
    W = (W0 H + rho (Z - U)) (H + rho I)^-1                (ALPS, eq. 6)

While rho grows (methods/solve/alternate.py) the support settles; the weights are then refitted on it
by conjugate gradients (methods/solve/conjugate.py). Unlike SparseGPT, no input is decided before the others are seen.

Shapes: O output features, I input features.
Cost:   O * I^2 multiply-adds an iteration, an inverse of I x I for each value of rho.
"""

from typing import ClassVar

from pydantic import Field

from gossamer.calibration.statistics import Gram, Statistic
from gossamer.methods.solve.alternate import alternate, unit_norm
from gossamer.methods.solve.conjugate import fit_kept
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.settings import Evidence
from gossamer.methods.solve.target import PruneTarget


class ADMM(PruneTarget):
    """Settings of ADMM."""

    needs: ClassVar[type[Statistic] | None] = Gram

    iterations: int = Field(default=20, ge=1, le=1000)
    """Rounds of the two updates; more than 20 gained nothing at 50 %."""
    refit: int = Field(default=8, ge=0, le=1000)
    """Steps of conjugate gradients on the final mask."""
    damping: float = Field(default=0.01, ge=0.0, le=1.0)
    """Added to the Gram matrix's diagonal, as a share of its mean; raised and reported if not enough."""


def apply(layer: LayerWeight, statistic: Evidence | None, settings: ADMM, notes: list[str]) -> LayerWeight:
    """Return the pruned layer with its kept weights fitted.

    Weights that are pruned already stay zero and count towards the sparsity. RecipeError if the layer is
    quantized already, CalibrationError if the Gram matrix cannot be used.
    """
    assert isinstance(statistic, Gram), "admm needs Gram"
    layer.require_changeable("admm")
    hessian_II, scale_I = unit_norm(statistic.value(), settings.damping, notes)
    target_OI = layer.target_OI / scale_I
    fitted_OI, mask_OI = alternate(target_OI, hessian_II, layer.mask_OI, settings, settings.iterations)
    fitted_OI = fit_kept(fitted_OI, mask_OI, target_OI, hessian_II, settings.refit)
    return layer.with_weight(fitted_OI * scale_I).pruned(mask_OI)
