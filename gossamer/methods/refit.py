"""Refit: the best weights on a fixed mask (the post-processing of ALPS, Meng et al. 2024, arXiv 2406.07831).

The weights that stay are fitted to the outputs that the layer had at first, by the conjugate gradients of
methods/solve/conjugate.py, with inputs scaled to unit norm.

Shapes: O output features, I input features.
Cost:   O * I^2 multiply-adds an iteration.
"""

from typing import ClassVar

from pydantic import Field

from gossamer.calibration.statistics import Gram, Statistic
from gossamer.methods.solve.conjugate import fit_kept_scaled
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.linear_algebra import damped_factor
from gossamer.methods.solve.settings import Evidence, MethodSettings


class Refit(MethodSettings):
    """Settings of the refit."""

    needs: ClassVar[type[Statistic] | None] = Gram

    iterations: int = Field(default=20, ge=1, le=1000)
    """Steps of conjugate gradients."""
    damping: float = Field(default=0.01, ge=0.0, le=1.0)
    """Added to the Gram matrix's diagonal, as a share of its mean; raised and reported if not enough."""


def apply(layer: LayerWeight, statistic: Evidence | None, settings: Refit, notes: list[str]) -> LayerWeight:
    """Return the layer with its kept weights fitted to what it was at first; nothing to do without a mask.

    RecipeError if the layer is quantized already, CalibrationError if the Gram matrix cannot be used.
    """
    assert isinstance(statistic, Gram), "refit needs Gram"
    layer.require_changeable("refit")
    if layer.mask_OI is None:
        return layer
    damped_II = damped_factor(statistic.value(), settings.damping, notes).damped_II.float()
    weight_OI = fit_kept_scaled(
        layer.weight_OI, layer.mask_OI, layer.target_OI, damped_II, settings.iterations
    )
    return layer.with_weight(weight_OI).pruned(layer.mask_OI)
