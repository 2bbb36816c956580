"""The weight as it is, in float32, float16 or bfloat16.

O output features, I input features. Bytes per weight: 4 or 2.
"""

import torch
from torch import Tensor

from gossamer.formats.bitmask import check_mask
from gossamer.formats.checks import (
    FLOAT_DTYPES,
    Specs,
    check_finite,
    fail,
    read_bool,
    read_choice,
    read_shape,
    require,
)
from gossamer.formats.weight import PackedWeight, dtype_name, round_values
from gossamer.kernels.declaration import Meta


class DenseWeight(PackedWeight):
    """`masked` declares that zero means "removed" rather than "kept with value 0"."""

    format = "dense"

    @classmethod
    def declare(cls, shape: tuple[int, int], dtype: torch.dtype, *, masked: bool = False) -> Meta:
        return {"format": "dense", "shape": list(shape), "values": dtype_name(dtype), "masked": masked}

    @classmethod
    def tensor_specs(cls, meta: Meta) -> Specs:
        read_bool(meta, "masked")
        return {"weight": (FLOAT_DTYPES[read_choice(meta, "values", FLOAT_DTYPES)], read_shape(meta))}

    @classmethod
    def pack(cls, weight_OI: Tensor, dtype: torch.dtype, mask_OI: Tensor | None = None) -> "DenseWeight":
        """Return the weight rounded to `dtype`, zero where the mask is False.

        FormatError when a kept weight rounds to zero, because the mask could not be read back.
        """
        require(dtype in FLOAT_DTYPES.values(), "values", f"one of {', '.join(FLOAT_DTYPES)}", dtype)
        rounded = round_values(weight_OI, dtype)
        if mask_OI is not None:
            check_mask(mask_OI, weight_OI)
            if not can_hold_mask(rounded, mask_OI):
                fail("mask", "no kept weight that is zero", "a mask that `dense` would lose; use bitmask")
            rounded = rounded.masked_fill(~mask_OI, 0)
        tensors = {"weight": rounded.contiguous()}
        return cls(
            cls.declare((rounded.shape[0], rounded.shape[1]), dtype, masked=mask_OI is not None), tensors
        )

    def check(self) -> None:
        check_finite("dense: tensor weight", self._tensors["weight"])

    def num_zeros(self) -> int:
        weight_OI = self._tensors["weight"]
        return weight_OI.numel() - int(weight_OI.count_nonzero())

    def mask(self) -> Tensor:
        weight_OI = self._tensors["weight"]
        return weight_OI != 0 if self._meta["masked"] else torch.ones_like(weight_OI, dtype=torch.bool)


def can_hold_mask(rounded_OI: Tensor, mask_OI: Tensor) -> bool:
    """True when `dense` gives back exactly this mask: no kept weight is zero."""
    return not bool(((rounded_OI == 0) & mask_OI).any())
