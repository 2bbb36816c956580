"""Kept values only, and one bit per weight that says where they belong.

The mask is one 64-bit word per (strip, quad), in lane order, so that one expand instruction rebuilds a
register. Values follow quad by quad. int4 values run in two streams per strip: even quads in the low nibbles,
odd quads in the high nibbles of the same bytes, so that a byte cursor suffices. docs/formats.md draws the
bytes.

O output features, I input features, S strips of 16 rows, Q quads of 4 columns, n stored values.
Bytes per weight at density d: 1/8 + d * bytes of a value + 2/group_size; int4 wins over dense int4 below d =
0.75.
"""

from math import prod

import torch
from torch import Tensor

from gossamer.formats.checks import (
    FLOAT_DTYPES,
    VALUE_DTYPES,
    Specs,
    check_finite,
    check_pointers,
    fail,
    read_choice,
    read_int,
    read_shape,
    require,
)
from gossamer.formats.integer import check_quantized, check_scales, has_zero_scale, pack_scales, scale_specs
from gossamer.formats.quantized import Quantized
from gossamer.formats.tiles import num_quads, num_strips, to_tiles
from gossamer.formats.weight import PackedWeight, dtype_name, round_values
from gossamer.kernels import reference
from gossamer.kernels.declaration import Meta

PADDING_BYTES = 64
"""Zeros after the last value, so that a kernel may load a whole register there."""


class BitmaskWeight(PackedWeight):
    format = "bitmask"

    @classmethod
    def declare(cls, shape: tuple[int, int], values: str, num_values: int, codes: Meta | None = None) -> Meta:
        """Return the declaration of so many stored elements; `codes` are bits, group_size and symmetric."""
        meta = {"format": "bitmask", "shape": list(shape), "values": values, "num_values": num_values}
        return {**meta, **(codes or {})}

    @classmethod
    def tensor_specs(cls, meta: Meta) -> Specs:
        num_outputs, num_inputs = read_shape(meta)
        values = read_choice(meta, "values", VALUE_DTYPES)
        strips, quads = num_strips(num_outputs), num_quads(num_inputs)
        num_values = read_int(meta, "num_values", 0, strips * quads * 64)
        dtype = VALUE_DTYPES[values]
        specs: Specs = {
            "mask": (torch.int64, (strips, quads)),
            "offsets": (torch.int64, (strips + 1,)),
            "values": (dtype, (num_values + PADDING_BYTES // dtype.itemsize,)),
        }
        if values in FLOAT_DTYPES:
            return specs
        bits = read_int(meta, "bits", 2, 8)
        require(values == integer_values(bits), "declaration: values", integer_values(bits), values)
        return {**specs, **scale_specs(meta)}

    @classmethod
    def pack(cls, quantized: Quantized, mask_OI: Tensor) -> "BitmaskWeight":
        """Return the kept codes; a kept weight of value 0 stays kept."""
        check_quantized(quantized)
        check_mask(mask_OI, quantized.codes_OI)
        signed_OI = (quantized.codes_OI.to(torch.int16) - (1 << (quantized.bits - 1))).to(torch.int8)
        values = integer_values(quantized.bits)
        return _pack(to_tiles(signed_OI), mask_OI, values, quantized)

    @classmethod
    def pack_float(cls, weight_OI: Tensor, mask_OI: Tensor, dtype: torch.dtype) -> "BitmaskWeight":
        """Return the kept weights rounded to `dtype` (float32, float16 or bfloat16)."""
        check_mask(mask_OI, weight_OI)
        name = dtype_name(dtype)
        require(name in FLOAT_DTYPES, "values", f"one of {', '.join(FLOAT_DTYPES)}", name)
        return _pack(to_tiles(round_values(weight_OI, dtype)), mask_OI, name, None)

    def check(self) -> None:
        num_outputs, num_inputs = self.shape
        tensors, meta = self._tensors, self._meta
        kept_SQL = reference.bitmask_kept(tensors)
        padded = reference.from_tiles(kept_SQL, kept_SQL.shape[0] * 16, kept_SQL.shape[1] * 4)
        outside = bool(padded[num_outputs:].any()) or bool(padded[:, num_inputs:].any())
        require(not outside, "bitmask: mask outside the matrix", "no bit set", "bits set")
        offsets = tensors["offsets"]
        check_pointers("bitmask: tensor offsets", offsets, meta["num_values"])
        lengths_S = strip_lengths(kept_SQL, meta["values"])
        wrong = torch.nonzero(offsets.diff() != lengths_S)
        if wrong.numel():
            s = int(wrong[0])
            fail(
                f"bitmask: values of strip {s}",
                f"{int(lengths_S[s])} by its mask",
                int(offsets[s + 1] - offsets[s]),
            )
        values = tensors["values"]
        require(not bool(values[meta["num_values"] :].any()), "bitmask: padding of values", 0, "other bytes")
        if "bits" in meta:
            check_scales(tensors, num_outputs)
            if f"int{meta['bits']}" != meta["values"]:  # else whatever is stored is in range
                signed = reference.bitmask_values(meta, tensors, kept_SQL)
                check_signed("bitmask: values", signed, meta["bits"])
        else:
            check_finite("bitmask: values", values)

    def num_zeros(self) -> int:
        meta, tensors = self._meta, self._tensors
        if "bits" in meta and (not meta["symmetric"] or has_zero_scale(tensors, self.shape[0])):
            return super().num_zeros()
        stored = tensors["values"]
        if meta["values"] != "int4":
            return prod(self.shape) - int(stored.count_nonzero())
        kept_SQL, starts_S = reference.bitmask_kept(tensors), tensors["offsets"][:-1]
        even_S, odd_S = (kept_SQL[:, parity::2].flatten(1).sum(dim=1) for parity in (0, 1))
        num_others = 0
        for own_S, other_S, bits in ((even_S, odd_S, 0x0F), (odd_S, even_S, 0xF0)):
            ownerless = reference.runs(starts_S + own_S, (other_S - own_S).clamp_min(0))
            num_others += int((stored & bits).count_nonzero())
            num_others -= int((stored[ownerless] & bits).count_nonzero())
        return prod(self.shape) - num_others

    def mask(self) -> Tensor:
        return reference.from_tiles(reference.bitmask_kept(self._tensors), *self.shape).contiguous()


def integer_values(bits: int) -> str:
    """Return how codes of this width are stored: two to a byte up to 4 bits, else one."""
    return "int4" if bits <= 4 else "int8"


def check_mask(mask_OI: Tensor, matrix_OI: Tensor) -> None:
    """Raise FormatError unless this is a mask for that matrix."""
    expected, got = list(matrix_OI.shape), list(mask_OI.shape)
    require(
        mask_OI.dtype == torch.bool and got == expected, "mask", f"bool {expected}", f"{mask_OI.dtype} {got}"
    )


def check_signed(what: str, signed: Tensor, bits: int) -> None:
    """Raise FormatError unless every value c = code - 2**(bits-1) comes from a code of that many bits."""
    low, high = (int(bound) for bound in torch.aminmax(signed))
    half = 1 << (bits - 1)
    require(-half <= low and high < half, what, f"{-half} to {half - 1}", f"{low} to {high}")


def strip_lengths(kept_SQL: Tensor, values: str) -> Tensor:
    """Return how many elements of `values` each strip takes, int64 [S]."""
    if values != "int4":
        return kept_SQL.flatten(1).sum(dim=1)
    even_S = kept_SQL[:, 0::2].flatten(1).sum(dim=1)
    odd_S = kept_SQL[:, 1::2].flatten(1).sum(dim=1)
    return torch.maximum(even_S, odd_S)


def mask_words(kept_SQL: Tensor) -> Tensor:
    """Return int64 [S, Q] whose bit l is lane l."""
    bits = kept_SQL.unflatten(2, (8, 8)).to(torch.uint8)
    packed = bits[..., 0].clone()
    for j in range(1, 8):
        packed |= bits[..., j] << j
    return packed.view(torch.int64).squeeze(2)


def _pack(tiles_SQL: Tensor, mask_OI: Tensor, values: str, quantized: Quantized | None) -> BitmaskWeight:
    kept_SQL = to_tiles(mask_OI)
    offsets = torch.nn.functional.pad(strip_lengths(kept_SQL, values).cumsum(0), (1, 0))
    num_values = int(offsets[-1])
    dtype = VALUE_DTYPES[values]
    stored = torch.zeros(num_values + PADDING_BYTES // dtype.itemsize, dtype=dtype, device=mask_OI.device)
    if values == "int4":
        for parity in (0, 1):
            kept_SqL = kept_SQL[:, parity::2]
            nibbles = tiles_SQL[:, parity::2][kept_SqL].view(torch.uint8) & 15
            stored[reference.nibble_positions(kept_SqL, offsets[:-1])] |= nibbles << (4 * parity)
    else:
        stored[:num_values] = tiles_SQL[kept_SQL]
    tensors = {"mask": mask_words(kept_SQL), "offsets": offsets, "values": stored}
    if quantized is not None:
        tensors |= pack_scales(quantized)
    codes = None if quantized is None else quantized.declaration()
    shape = (mask_OI.shape[0], mask_OI.shape[1])
    return BitmaskWeight(BitmaskWeight.declare(shape, values, num_values, codes), tensors)
