"""Threshold: prune every weight with |w| < threshold (Janowsky 1989; Han et al. 2015, arXiv 1506.02626,
section 3).

Shapes: O output features, I input features.
Cost:   one comparison a weight; no calibration data.
"""

from pydantic import Field

from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.settings import Evidence, MethodSettings


class Threshold(MethodSettings):
    """Settings of threshold pruning."""

    threshold: float = Field(gt=0.0, allow_inf_nan=False)
    """Weights of a magnitude below this are set to zero, in the units of the weights; > 0."""


def apply(
    layer: LayerWeight, statistic: Evidence | None, settings: Threshold, notes: list[str]
) -> LayerWeight:
    """Return the layer without the weights below the threshold; RecipeError if it is quantized already."""
    layer.require_changeable("threshold")
    mask_OI = layer.weight_OI.abs() >= settings.threshold
    if layer.mask_OI is not None:
        mask_OI &= layer.mask_OI
    if not bool(mask_OI.any()):
        notes.append(f"threshold {settings.threshold:g} prunes every weight of the layer")
    return layer.pruned(mask_OI)
