"""Round to nearest: each weight on its own, no calibration data (the baseline of GPTQ, arXiv 2210.17323,
section 5).

Shapes: O output features, I input features.
Cost:   one rounding, 13 with the search for the range (methods/solve/grid.py).
"""

from gossamer.methods.solve.grid import Grid, float16_holds, quantize
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.settings import Evidence


class RTN(Grid):
    """Settings of round to nearest."""


def apply(layer: LayerWeight, statistic: Evidence | None, settings: RTN, notes: list[str]) -> LayerWeight:
    """Return the layer rounded to its codes, pruned weights still zero; as it is where float16 cannot hold its scales.

    RecipeError if the layer is quantized already or the group size does not divide its inputs.
    """
    layer.require_changeable("rtn")
    if not float16_holds(layer.weight_OI, settings, notes):
        return layer
    return layer.with_codes(quantize(layer.weight_OI, settings, mask_OI=layer.mask_OI))
