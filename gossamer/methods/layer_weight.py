"""One linear layer's weight as it passes from step to step of a recipe.

O output features, I input features.
"""

from dataclasses import dataclass

from torch import Tensor

from gossamer.formats.quantized import Quantized


@dataclass(frozen=True, slots=True)
class LayerWeight:
    """The weight, what is kept of it, and its codes if it has been quantized.

    ``weight_OI`` always holds the values that the packed layer will have: zeros where the mask is False,
    dequantized values where there are codes.
    """

    weight_OI: Tensor
    """float32."""
    mask_OI: Tensor | None = None
    """bool, True = kept; None = every weight is kept."""
    quantized: Quantized | None = None
