"""N:16 sparsity, N = 4, 8 or 12: at most N weights kept in every window of 16 columns, no mask and no row
pointers.

An int4 value and its column share a byte, (value & 15) << 4 | column. Other values lie beside half a byte of
column. Within a window the kept columns ascend; a slot that holds nothing is 0. So that the mask can be read
back exactly, every window keeps at least one weight: then slot 0 is always used, and a later slot is used
when its column is not 0.

O output features, I input features, S strips of 16 rows, W = Kp/16 windows (Kp = I rounded up to 64), P = N/4
planes. Lane 4r+j of plane p is the (4p+j)-th kept column of row r in the window. docs/formats.md draws the
bytes. Bytes per weight: N/16 (int4), 1.5 N/16 (int8), 2.5 N/16 (16-bit floats), plus 2/group_size for the
integers.
"""

from math import prod

import torch
from torch import Tensor

from gossamer.formats.bitmask import check_mask, check_signed, integer_values
from gossamer.formats.checks import (
    FLOAT_DTYPES,
    VALUE_DTYPES,
    Specs,
    check_finite,
    fail,
    read_choice,
    read_int,
    read_shape,
    require,
)
from gossamer.formats.integer import check_quantized, check_scales, has_zero_scale, pack_scales, scale_specs
from gossamer.formats.quantized import Quantized
from gossamer.formats.tiles import num_quads, num_strips, pad
from gossamer.formats.weight import PackedWeight, dtype_name, round_values
from gossamer.kernels import reference
from gossamer.kernels.declaration import Meta

KEEP_CHOICES = (4, 8, 12)
VALUE_CHOICES = ("int4", "int8", "float16", "bfloat16")


class NmWeight(PackedWeight):
    format = "nm"

    @classmethod
    def declare(cls, shape: tuple[int, int], keep: int, values: str, codes: Meta | None = None) -> Meta:
        """Return the declaration with `keep` slots per window; `codes` are bits, group_size and symmetric."""
        return {"format": "nm", "shape": list(shape), "keep": keep, "values": values, **(codes or {})}

    @classmethod
    def tensor_specs(cls, meta: Meta) -> Specs:
        num_outputs, num_inputs = read_shape(meta)
        values = read_choice(meta, "values", VALUE_CHOICES)
        keep = read_int(meta, "keep", 4, 12)
        require(keep in KEEP_CHOICES, "declaration: keep", "4, 8 or 12", keep)
        planes = (num_strips(num_outputs), num_quads(num_inputs) // 4, keep // 4)
        specs: Specs
        if values == "int4":
            specs = {"codes": (torch.uint8, (*planes, 64))}
        else:
            specs = {"index": (torch.uint8, (*planes, 32)), "values": (VALUE_DTYPES[values], (*planes, 64))}
        if values in FLOAT_DTYPES:
            return specs
        bits = read_int(meta, "bits", 2, 8)
        require(values == integer_values(bits), "declaration: values", integer_values(bits), values)
        require(meta.get("symmetric") is True, "declaration: symmetric", True, meta.get("symmetric"))
        return {**specs, **scale_specs(meta)}

    @classmethod
    def pack(cls, quantized: Quantized, mask_OI: Tensor, keep: int | None = None) -> "NmWeight":
        """Return the kept codes in the fewest slots per window, or in `keep`.

        FormatError if the mask does not fit.
        """
        check_quantized(quantized)
        check_mask(mask_OI, quantized.codes_OI)
        if not quantized.symmetric:
            fail("nm: codes", "symmetric", "asymmetric; use bitmask")
        signed_OI = (quantized.codes_OI.to(torch.int16) - (1 << (quantized.bits - 1))).to(torch.int8)
        return _pack(signed_OI, mask_OI, keep, integer_values(quantized.bits), quantized)

    @classmethod
    def pack_float(
        cls, weight_OI: Tensor, mask_OI: Tensor, dtype: torch.dtype, keep: int | None = None
    ) -> "NmWeight":
        """Return the kept weights rounded to `dtype` (float16 or bfloat16)."""
        check_mask(mask_OI, weight_OI)
        name = dtype_name(dtype)
        require(name in ("float16", "bfloat16"), "nm: values", "float16 or bfloat16", name)
        return _pack(round_values(weight_OI, dtype), mask_OI, keep, name, None)

    def check(self) -> None:
        num_outputs, num_inputs = self.shape
        index_RWN, value_RWN = reference.nm_entries(self._meta, self._tensors)
        used_RWN = index_RWN != 0
        ascending = ~used_RWN[:, :, 1:] | (index_RWN[:, :, 1:] > index_RWN[:, :, :-1])
        holes = used_RWN[:, :, 2:] & ~used_RWN[:, :, 1:-1]
        in_order = bool(ascending.all()) and not bool(holes.any())
        require(in_order, "nm: columns of a window", "ascending, empty slots last", "another order")
        held = value_RWN[:, :, 1:][~used_RWN[:, :, 1:]]
        require(not bool(held.any()), "nm: values of empty slots", 0, "other values")
        real_windows, last_column = -(-num_inputs // 16), (num_inputs - 1) % 16
        require(
            bool((index_RWN[:num_outputs, real_windows - 1] <= last_column).all()),
            "nm: columns of the last window",
            f"at most {last_column}",
            "larger ones",
        )
        for name, entries in (("columns", index_RWN), ("values", value_RWN)):
            empty = not bool(entries[num_outputs:].any()) and not bool(entries[:, real_windows:].any())
            require(empty, f"nm: {name} outside the matrix", 0, "others")
        if "bits" in self._meta:
            check_scales(self._tensors, num_outputs)
            check_signed("nm: values", value_RWN, self._meta["bits"])
        else:
            check_finite("nm: values", value_RWN)

    def num_zeros(self) -> int:
        if has_zero_scale(self._tensors, self.shape[0]):
            return super().num_zeros()
        tensors = self._tensors
        stored = tensors["codes"] >> 4 if self._meta["values"] == "int4" else tensors["values"]
        return prod(self.shape) - int(stored.count_nonzero())  # a slot that holds nothing is 0

    def mask(self) -> Tensor:
        index_RWN, _ = reference.nm_entries(self._meta, self._tensors)
        return reference.nm_kept(self._meta, index_RWN).contiguous()


def fewest_slots(mask_OI: Tensor) -> int | None:
    """Return the smallest N for which the mask is N:16 with no empty window, or None."""
    counts_OW = _windows(mask_OI, *mask_OI.shape).sum(dim=2)
    low, high = (int(bound) for bound in torch.aminmax(counts_OW))
    if low == 0:
        return None
    return next((keep for keep in KEEP_CHOICES if high <= keep), None)


def _windows(matrix_OI: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return the matrix padded to [num_rows, num_columns rounded up to 16] as windows [rows, W, 16]."""
    return pad(matrix_OI, num_rows, -(-num_columns // 16) * 16).unflatten(1, (-1, 16))


def _pack(
    values_OI: Tensor, mask_OI: Tensor, keep: int | None, values: str, quantized: Quantized | None
) -> NmWeight:
    fewest = fewest_slots(mask_OI)
    if fewest is None or (keep is not None and (keep < fewest or keep not in KEEP_CHOICES)):
        fail(
            "nm: mask", f"1 to {keep or 12} kept in every window of 16 columns", "a window with more or none"
        )
    keep = keep or fewest
    num_rows, num_columns = num_strips(values_OI.shape[0]) * 16, num_quads(values_OI.shape[1]) * 4
    mask_RWw = _windows(mask_OI, num_rows, num_columns)
    values_RWw = _windows(values_OI, num_rows, num_columns)
    columns_RWw = torch.arange(16, dtype=torch.uint8, device=mask_OI.device).expand_as(mask_RWw)
    filled_RWN = (
        torch.arange(keep, device=mask_OI.device) < mask_RWw.sum(dim=2, dtype=torch.uint8)[:, :, None]
    )
    # Boolean indexing lists both sides row by row, window by window, column by column: the orders agree.
    index_RWN = torch.zeros(filled_RWN.shape, dtype=torch.uint8, device=mask_OI.device)
    index_RWN[filled_RWN] = columns_RWw[mask_RWw]
    value_RWN = torch.zeros(filled_RWN.shape, dtype=values_OI.dtype, device=mask_OI.device)
    value_RWN[filled_RWN] = values_RWw[mask_RWw]
    index, value = _to_lanes(index_RWN), _to_lanes(value_RWN)
    if values == "int4":
        tensors = {"codes": ((value.view(torch.uint8) & 15) << 4) | index}
    else:
        tensors = {"index": index[..., 0::2] | (index[..., 1::2] << 4), "values": value}
    if quantized is not None:
        tensors |= pack_scales(quantized)
    codes = None if quantized is None else quantized.declaration()
    shape = (mask_OI.shape[0], mask_OI.shape[1])
    return NmWeight(NmWeight.declare(shape, keep, values, codes), tensors)


def _to_lanes(rows_RWN: Tensor) -> Tensor:
    """[S*16, W, 4P] -> [S, W, P, 64]."""
    rows = rows_RWN.unflatten(0, (-1, 16)).unflatten(3, (-1, 4))
    return rows.permute(0, 2, 3, 1, 4).flatten(3).contiguous()
