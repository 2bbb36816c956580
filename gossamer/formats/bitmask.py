"""Kept values only, and one bit per weight that says where they belong.

The mask is one 64-bit word per (strip, quad), in lane order, so that one expand instruction rebuilds a
register. Values follow quad by quad. int4 values run in two streams per strip: even quads in the low nibbles,
odd quads in the high nibbles of the same bytes, so that a byte cursor suffices. docs/formats.md draws the
bytes.

O output features, I input features, S strips of 16 rows, Q quads of 4 columns, n stored values.
Bytes per weight at density d: 1/8 + d * bytes of a value + 2/group_size; int4 wins over dense int4 below d =
0.75.
"""

from collections.abc import Mapping
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
from gossamer.formats.integer import (
    check_quantized,
    check_scales,
    from_signed,
    pack_scales,
    scale_specs,
    zero_scale_strips,
)
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
        inside_SQ = _inside(num_outputs, num_inputs, tensors["mask"].device)
        outside = bool((tensors["mask"] & ~inside_SQ).any())
        require(not outside, "bitmask: mask outside the matrix", "no bit set", "bits set")
        offsets = tensors["offsets"]
        check_pointers("bitmask: tensor offsets", offsets, meta["num_values"])
        lengths_S = strip_lengths(bit_counts(tensors["mask"]), meta["values"])
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
                signed = reference.bitmask_values(meta, tensors, reference.bitmask_kept(tensors))
                check_signed("bitmask: values", signed, meta["bits"])
        else:
            check_finite("bitmask: values", values)

    def num_zeros(self) -> int:
        if "bits" in self._meta and not self._meta["symmetric"]:
            return super().num_zeros()
        num_others = self._num_stored_others()
        if "bits" in self._meta:
            strips_S = zero_scale_strips(self._tensors, self.shape[0])
            num_others -= _num_scaled_away(self._meta, _strips(self._tensors, strips_S))
        return prod(self.shape) - num_others

    def _num_stored_others(self) -> int:
        """Return how many stored values are not zero."""
        stored = self._tensors["values"]
        if self._meta["values"] != "int4":
            return int(stored.count_nonzero())
        starts_S, counts_SQ = self._tensors["offsets"][:-1], bit_counts(self._tensors["mask"])
        even_S, odd_S = (counts_SQ[:, parity::2].sum(dim=1) for parity in (0, 1))
        num_others = 0
        for own_S, other_S, bits in ((even_S, odd_S, 0x0F), (odd_S, even_S, 0xF0)):
            ownerless = reference.runs(starts_S + own_S, (other_S - own_S).clamp_min(0))
            num_others += int((stored & bits).count_nonzero())
            num_others -= int((stored[ownerless] & bits).count_nonzero())
        return num_others

    def mask(self) -> Tensor:
        return reference.from_tiles(reference.bitmask_kept(self._tensors), *self.shape).contiguous()

    def quantized(self) -> Quantized | None:
        if "bits" not in self._meta:
            return None
        kept_SQL = reference.bitmask_kept(self._tensors)
        signed_SQL = reference.bitmask_values(self._meta, self._tensors, kept_SQL)
        return from_signed(self._meta, self._tensors, reference.from_tiles(signed_SQL, *self.shape))


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


def bit_counts(words: Tensor) -> Tensor:
    """Return how many bits are set in each int64, as int64: sums of 2, 4 and 8 neighbours, then of the bytes."""
    words = words - ((words >> 1) & 0x5555555555555555)
    words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (words * 0x0101010101010101) >> 56


def strip_lengths(counts_SQ: Tensor, values: str) -> Tensor:
    """Return how many elements of `values` each strip takes, int64 [S], where so many are kept in each quad."""
    if values != "int4":
        return counts_SQ.sum(dim=1)
    return torch.maximum(counts_SQ[:, 0::2].sum(dim=1), counts_SQ[:, 1::2].sum(dim=1))


def _inside(num_outputs: int, num_inputs: int, device: torch.device) -> Tensor:
    """Return the mask [S, Q] that keeps every weight of a matrix, and nothing of its padding."""
    rows = to_tiles(torch.ones(num_outputs, 4, dtype=torch.bool, device=device))[:, :1]
    columns = to_tiles(torch.ones(16, num_inputs, dtype=torch.bool, device=device))[:1]
    return mask_words(rows) & mask_words(columns)


def _strips(tensors: Mapping[str, Tensor], strips_S: Tensor) -> dict[str, Tensor]:
    """Return the tensors of these strips alone."""
    offsets, lengths_S = tensors["offsets"], tensors["offsets"].diff()[strips_S]
    values = tensors["values"][reference.runs(offsets[strips_S], lengths_S)]
    return {
        "mask": tensors["mask"][strips_S],
        "offsets": torch.nn.functional.pad(lengths_S.cumsum(0), (1, 0)),
        "values": values,
        "scale": tensors["scale"][strips_S],
    }


def _num_scaled_away(meta: Meta, tensors: dict[str, Tensor]) -> int:
    """Return how many stored values that are not zero have a scale of zero."""
    values_SQL = reference.bitmask_values(meta, tensors, reference.bitmask_kept(tensors))
    lanes_SGL = (tensors["scale"] == 0).repeat_interleave(4, dim=2)
    quads = (meta["group_size"] or values_SQL.shape[1] * 4) // 4
    is_away_SQL = lanes_SGL.repeat_interleave(quads, dim=1)[:, : values_SQL.shape[1]]
    return int((values_SQL[:, : is_away_SQL.shape[1]][is_away_SQL]).count_nonzero())


def mask_words(kept_SQL: Tensor) -> Tensor:
    """Return int64 [S, Q] whose bit l is lane l."""
    bits = kept_SQL.unflatten(2, (8, 8)).to(torch.uint8)
    packed = bits[..., 0].clone()
    for j in range(1, 8):
        packed |= bits[..., j] << j
    return packed.view(torch.int64).squeeze(2)


def _pack(tiles_SQL: Tensor, mask_OI: Tensor, values: str, quantized: Quantized | None) -> BitmaskWeight:
    kept_SQL = to_tiles(mask_OI)
    offsets = torch.nn.functional.pad(strip_lengths(kept_SQL.sum(dim=2), values).cumsum(0), (1, 0))
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
