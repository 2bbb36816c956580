"""Threshold: prune every weight with |w| < threshold (Janowsky 1989; Han et al. 2015, arXiv 1506.02626,
section 3).

Shapes: O output features, I input features.
Cost:   one comparison a weight; no calibration data.
"""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from gossamer.calibration.statistics import Statistic
from gossamer.methods.solve.layer_weight import LayerWeight


class Threshold(BaseModel):
    """Settings of threshold pruning."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    needs: ClassVar[type[Statistic] | None] = None

    threshold: float = Field(gt=0.0, allow_inf_nan=False)
    """Weights of a magnitude below this are set to zero, in the units of the weights; > 0."""


def apply(
    layer: LayerWeight, statistic: Statistic | None, settings: Threshold, notes: list[str]
) -> LayerWeight:
    """Return the layer without the weights below the threshold; RecipeError if it is quantized already."""
    layer.require_changeable("threshold")
    mask_OI = layer.weight_OI.abs() >= settings.threshold
    if layer.mask_OI is not None:
        mask_OI &= layer.mask_OI
    if not bool(mask_OI.any()):
        notes.append(f"threshold {settings.threshold:g} prunes every weight of the layer")
    return layer.pruned(mask_OI)
