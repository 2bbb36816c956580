"""Dense integer codes of 2 to 8 bits in groups: the base that every sparse format must beat.

Codes are split into bit planes of 8, 4, 2 or 1 bits (kernels/reference.py PLANES), each in tile order, so
that any width is unpacked with shifts alone. docs/formats.md draws the bytes.

O output features, I input features, G groups, S strips of 16 rows, Q quads of 4 columns.
Bytes per weight: bits/8 + 2/group_size, and another 2/group_size when asymmetric.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gossamer.formats.checks import (
    Specs,
    check_finite,
    fail,
    read_bool,
    read_group_size,
    read_int,
    read_shape,
    require,
)
from gossamer.formats.quantized import Quantized
from gossamer.formats.tiles import num_quads, num_strips, tile_scales, to_tiles
from gossamer.formats.weight import PackedWeight
from gossamer.kernels import reference
from gossamer.kernels.declaration import Meta


class IntegerWeight(PackedWeight):
    """`masked` declares that the zero code (symmetric only) means "removed" rather than "kept with value
    0".
    """

    format = "integer"

    @classmethod
    def declare(cls, shape: tuple[int, int], codes: Meta, *, masked: bool = False) -> Meta:
        """Return the declaration; `codes` are bits, group_size and symmetric."""
        return {"format": "integer", "shape": list(shape), **codes, "masked": masked}

    @classmethod
    def tensor_specs(cls, meta: Meta) -> Specs:
        num_outputs, num_inputs = read_shape(meta)
        bits = read_int(meta, "bits", 2, 8)
        symmetric = read_bool(meta, "symmetric")
        masked = read_bool(meta, "masked")
        require(symmetric or not masked, "declaration: masked", "false for asymmetric codes", masked)
        strips, quads = num_strips(num_outputs), num_quads(num_inputs)
        planes: Specs = {
            f"codes{width}": (torch.uint8, (strips, quads * width // 8, 64))
            for width in reference.PLANES[bits]
        }
        return {**planes, **scale_specs(meta)}

    @classmethod
    def pack(cls, quantized: Quantized, mask_OI: Tensor | None = None) -> "IntegerWeight":
        """Return the packed codes; with a mask, removed weights get the zero code.

        FormatError when the mask could not be read back: asymmetric codes, or a kept weight whose code is 0.
        """
        check_quantized(quantized)
        codes_OI = quantized.codes_OI
        if mask_OI is not None:
            if not can_hold_mask(quantized, mask_OI):
                fail(
                    "mask",
                    "symmetric codes without a kept zero",
                    "a mask that `integer` would lose; use bitmask",
                )
            codes_OI = codes_OI.masked_fill(~mask_OI, zero_code(quantized.bits))
        tensors = split_planes(to_tiles(codes_OI), quantized.bits)
        tensors |= pack_scales(quantized)
        shape = (codes_OI.shape[0], codes_OI.shape[1])
        return cls(cls.declare(shape, quantized.declaration(), masked=mask_OI is not None), tensors)

    def check(self) -> None:
        check_scales(self._tensors, self.shape[0])

    def num_zeros(self) -> int:
        code_OG, all_OG = zero_codes(self._meta, self._tensors)
        codes_OGg = reference.integer_codes(self._meta, self._tensors).unflatten(1, (code_OG.shape[1], -1))
        return int(((codes_OGg == code_OG[:, :, None]) | all_OG[:, :, None]).sum())

    def mask(self) -> Tensor:
        if not self._meta["masked"]:
            return torch.ones(self.shape, dtype=torch.bool, device=self._tensors["scale"].device)
        return reference.integer_codes(self._meta, self._tensors) != zero_code(self._meta["bits"])

    def quantized(self) -> Quantized:
        """Return the codes and scales that were packed."""
        scale_OG, minimum_OG = reference.unpack_scales(self._meta, self._tensors)
        codes_OI = reference.integer_codes(self._meta, self._tensors).contiguous()
        return Quantized(codes_OI, scale_OG, minimum_OG, self._meta["bits"], self._meta["group_size"])


def zero_code(bits: int) -> int:
    """Return the symmetric code whose value is 0."""
    return 1 << (bits - 1)


def zero_codes(meta: Meta, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the code [O, G] (int16) whose value is exactly 0, -1 where none is, and where [O, G] every code's is.

    Products of a code and a scale are exact in float32: code * scale + minimum is 0 only where it is in real numbers.
    """
    scale_OG, minimum_OG = reference.unpack_scales(meta, tensors)
    if minimum_OG is None:
        return torch.full_like(scale_OG, zero_code(meta["bits"]), dtype=torch.int16), scale_OG == 0
    code_OG = (-minimum_OG / scale_OG).nan_to_num(0).round().clamp(0, 2 ** meta["bits"] - 1)
    is_zero_OG = code_OG * scale_OG + minimum_OG == 0
    every_OG = (scale_OG == 0) & (minimum_OG == 0)
    return torch.where(is_zero_OG, code_OG, -1).to(torch.int16), every_OG


def zero_scale_strips(tensors: Mapping[str, Tensor], num_outputs: int) -> Tensor:
    """Return the numbers of the strips in which a group of weights has the scale 0, so that all its codes mean 0.

    int64. Rows of padding have it always and do not count.
    """
    rows_S16 = (tensors["scale"] == 0).any(dim=1)
    rows_S16.flatten()[num_outputs:] = False
    return torch.nonzero(rows_S16.any(dim=1)).flatten()


def can_hold_mask(quantized: Quantized, mask_OI: Tensor) -> bool:
    """True when `integer` gives back exactly this mask: symmetric, and no kept weight has the zero code."""
    if not quantized.symmetric:
        return False
    return not bool(((quantized.codes_OI == zero_code(quantized.bits)) & mask_OI).any())


def split_planes(codes_SQL: Tensor, bits: int) -> dict[str, Tensor]:
    """Return {codes8|4|2|1: plane [S, Q*width/8, 64]}; consecutive quads share a byte, first in the low
    bits.
    """
    tensors = {}
    shift = 0
    for width in reference.PLANES[bits]:
        per_byte = 8 // width
        part = ((codes_SQL >> shift) & ((1 << width) - 1)).unflatten(1, (-1, per_byte))
        plane = part[:, :, 0]
        for j in range(1, per_byte):
            plane = plane | (part[:, :, j] << (width * j))
        tensors[f"codes{width}"] = plane.contiguous()
        shift += width
    return tensors


# ---- scales and codes, shared with bitmask and nm ----------------------------------------------------------


def scale_specs(meta: Meta) -> Specs:
    """Return the specs of `scale` and, when asymmetric, `minimum`."""
    num_outputs, num_inputs = read_shape(meta)
    num_groups = num_inputs // read_group_size(meta, num_inputs)
    spec = (torch.float16, (num_strips(num_outputs), num_groups, 16))
    return {"scale": spec} if read_bool(meta, "symmetric") else {"scale": spec, "minimum": spec}


def pack_scales(quantized: Quantized) -> dict[str, Tensor]:
    tensors = {"scale": tile_scales(quantized.scale_OG)}
    if quantized.minimum_OG is not None:
        tensors["minimum"] = tile_scales(quantized.minimum_OG)
    return tensors


def from_signed(meta: Meta, tensors: Mapping[str, Tensor], signed_OI: Tensor) -> Quantized:
    """Return the codes and scales of stored values c = code - 2**(bits-1)."""
    scale_OG, minimum_OG = reference.unpack_scales(meta, tensors)
    codes_OI = (signed_OI.to(torch.int16) + (1 << (meta["bits"] - 1))).to(torch.uint8).contiguous()
    return Quantized(codes_OI, scale_OG, minimum_OG, meta["bits"], meta["group_size"])


def check_scales(tensors: Mapping[str, Tensor], num_outputs: int) -> None:
    """Raise FormatError unless scales and minima are finite, and zero in the rows of padding."""
    for name in ("scale", "minimum"):
        if name in tensors:
            check_finite(f"tensor {name}", tensors[name])
            padding = tensors[name][-1, :, (num_outputs - 1) % 16 + 1 :]
            require(not bool(padding.any()), f"tensor {name}: rows of padding", 0, "other values")


def check_quantized(quantized: Quantized) -> None:
    """Raise FormatError unless codes and scales fit together and packing them loses nothing."""
    codes_OI, bits = quantized.codes_OI, quantized.bits
    if codes_OI.dtype != torch.uint8 or codes_OI.ndim != 2 or 0 in codes_OI.shape:
        fail("codes", "a non-empty uint8 matrix", f"{codes_OI.dtype} {list(codes_OI.shape)}")
    num_outputs, num_inputs = codes_OI.shape
    meta = {"bits": bits, "group_size": quantized.group_size}
    read_int(meta, "bits", 2, 8)
    num_groups = num_inputs // read_group_size(meta, num_inputs)
    largest = int(codes_OI.max())
    require(largest < 1 << bits, "codes", f"less than 2**{bits}", largest)
    for name, values in (("scale", quantized.scale_OG), ("minimum", quantized.minimum_OG)):
        if values is not None:
            expected = [num_outputs, num_groups]
            require(list(values.shape) == expected, f"{name}: shape", expected, list(values.shape))
            exact = torch.equal(values, values.to(torch.float16).to(values.dtype))
            require(exact, name, "finite values that float16 holds exactly", "others")
