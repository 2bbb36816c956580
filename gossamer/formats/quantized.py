"""Integer codes in groups: what a quantizer decided, before a format packs it.

O output features, I input features, G groups of consecutive inputs that share a scale (G = I / group_size).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.kernels.declaration import Meta


@dataclass(frozen=True, slots=True)
class Quantized:
    """Codes and scales of one weight matrix.

    Symmetric (``minimum_OG is None``): w = scale * (code - 2**(bits-1)).
    Asymmetric: w = scale * code + minimum.
    Scales and minima hold values that float16 represents exactly, so that packing loses nothing.
    """

    codes_OI: Tensor
    """uint8, 0 <= code < 2**bits."""
    scale_OG: Tensor
    """float32."""
    minimum_OG: Tensor | None
    """float32, or None when symmetric."""
    bits: int
    group_size: int

    @property
    def symmetric(self) -> bool:
        return self.minimum_OG is None

    def declaration(self) -> Meta:
        """Return what a declaration says about codes."""
        return {"bits": self.bits, "group_size": self.group_size, "symmetric": self.symmetric}

    def dequantize(self) -> Tensor:
        """Return weight_OI in float32, without regard to any mask."""
        num_rows, num_inputs = self.codes_OI.shape
        codes_OGg = self.codes_OI.to(torch.float32).view(num_rows, -1, self.group_size)
        if self.minimum_OG is None:
            values_OGg = (codes_OGg - 2 ** (self.bits - 1)) * self.scale_OG[:, :, None]
        else:
            values_OGg = codes_OGg * self.scale_OG[:, :, None] + self.minimum_OG[:, :, None]
        return values_OGg.view(num_rows, num_inputs)
