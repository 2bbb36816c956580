"""N:M sparsity: at most N weights kept in every window of M columns, no row pointers. 4, 8 or 12 of 16; 4 of 8;
2 of 4.

Of 16: an int4 value and its column share a byte, (value & 15) << 4 | column. Other values lie beside half a byte of
column. Within a window the kept columns ascend; a slot that holds nothing is 0. So that the mask can be read
back exactly, every window keeps at least one weight: then slot 0 is always used, and a later slot is used
when its column is not 0.

Of 8 and of 4 (integers only): there are always eight slots for 16 columns of a row, so that two int4 values share a
byte. Of 4, a column takes two bits, and the rule is the same. Of 8, a byte for each window is its mask.

O output features, I input features, S strips of 16 rows, C = Kp/16 runs of 16 columns (Kp = I rounded up to 64), in
them P planes of four slots. Lane 4r+j of plane p is slot 4p+j of row r. docs/formats.md draws the bytes. Bytes per
weight, plus 2/group_size for the integers: of 16, N/16 (int4), 1.5 N/16 (int8), 2.5 N/16 (16-bit floats); of 8 and
of 4, 3/8 (int4), 5/8 (int8).
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
from gossamer.formats.integer import (
    check_quantized,
    check_scales,
    from_signed,
    pack_scales,
    scale_specs,
    zero_scale_strips,
)
from gossamer.formats.quantized import Quantized
from gossamer.formats.tiles import num_quads, num_strips, pad
from gossamer.formats.weight import PackedWeight, dtype_name, round_values
from gossamer.kernels import reference
from gossamer.kernels.declaration import Meta

PATTERNS = ((2, 4), (4, 8), (4, 16), (8, 16), (12, 16))
"""N and M that there is a layout for. Among those of the same bytes the fastest comes first."""
VALUE_CHOICES = ("int4", "int8", "float16", "bfloat16")


class NmWeight(PackedWeight):
    format = "nm"

    @classmethod
    def declare(
        cls, shape: tuple[int, int], pattern: tuple[int, int], values: str, codes: Meta | None = None
    ) -> Meta:
        """Return the declaration; `pattern` is one of `PATTERNS`, `codes` are bits, group_size and symmetric."""
        keep, window = pattern
        narrow = {} if window == 16 else {"window": window}
        return {
            "format": "nm",
            "shape": list(shape),
            "keep": keep,
            **narrow,
            "values": values,
            **(codes or {}),
        }

    @classmethod
    def tensor_specs(cls, meta: Meta) -> Specs:
        num_outputs, num_inputs = read_shape(meta)
        values = read_choice(meta, "values", VALUE_CHOICES)
        keep, window = read_int(meta, "keep", 2, 12), read_int({"window": 16, **meta}, "window", 4, 16)
        known = ", ".join(f"{n} of {m}" for n, m in PATTERNS)
        require((keep, window) in PATTERNS, "declaration: keep, window", known, f"{keep} of {window}")
        strips, runs = num_strips(num_outputs), num_quads(num_inputs) // 4
        planes = (strips, runs, keep * 16 // window // 4)
        specs: Specs = {}
        if window == 4:
            specs["index"] = (torch.uint8, (strips, runs // 2, 64))
        elif window == 8:
            specs["mask"] = (torch.uint8, (strips, runs, 2, 16))
        elif values != "int4":
            specs["index"] = (torch.uint8, (*planes, 32))
        if values == "int4":
            specs["codes"] = (torch.uint8, (*planes, 64) if window == 16 else (strips, runs, 64))
        else:
            specs["values"] = (VALUE_DTYPES[values], (*planes, 64))
        if values in FLOAT_DTYPES:
            require(window == 16, "declaration: values of a window below 16", "int4 or int8", values)
            return specs
        bits = read_int(meta, "bits", 2, 8)
        require(values == integer_values(bits), "declaration: values", integer_values(bits), values)
        require(meta.get("symmetric") is True, "declaration: symmetric", True, meta.get("symmetric"))
        return {**specs, **scale_specs(meta)}

    @classmethod
    def pack(
        cls, quantized: Quantized, mask_OI: Tensor, pattern: tuple[int, int] | None = None
    ) -> "NmWeight":
        """Return the kept codes as one of `PATTERNS`, or as the smallest that fits.

        FormatError if the mask does not fit.
        """
        check_quantized(quantized)
        check_mask(mask_OI, quantized.codes_OI)
        if not quantized.symmetric:
            fail("nm: codes", "symmetric", "asymmetric; use bitmask")
        signed_OI = (quantized.codes_OI.to(torch.int16) - (1 << (quantized.bits - 1))).to(torch.int8)
        return _pack(signed_OI, mask_OI, pattern, integer_values(quantized.bits), quantized)

    @classmethod
    def pack_float(
        cls, weight_OI: Tensor, mask_OI: Tensor, dtype: torch.dtype, pattern: tuple[int, int] | None = None
    ) -> "NmWeight":
        """Return the kept weights rounded to `dtype` (float16 or bfloat16), N of 16."""
        check_mask(mask_OI, weight_OI)
        name = dtype_name(dtype)
        require(name in ("float16", "bfloat16"), "nm: values", "float16 or bfloat16", name)
        return _pack(round_values(weight_OI, dtype), mask_OI, pattern, name, None)

    def check(self) -> None:
        num_outputs, num_inputs = self.shape
        window = reference.nm_window(self._meta)
        index_RWN, value_RWN = reference.nm_entries(self._meta, self._tensors)
        if "mask" in self._tensors:
            used_RWN = self._check_mask(value_RWN)
        else:
            used_RWN = index_RWN != 0
            used_RWN[:, :, 0] = True
        ascending = ~used_RWN[:, :, 1:] | (index_RWN[:, :, 1:] > index_RWN[:, :, :-1])
        holes = used_RWN[:, :, 1:] & ~used_RWN[:, :, :-1]
        in_order = bool(ascending.all()) and not bool(holes.any())
        require(in_order, "nm: columns of a window", "ascending, empty slots last", "another order")
        require(not bool(value_RWN[~used_RWN].any()), "nm: values of empty slots", 0, "other values")
        real_windows, last_column = -(-num_inputs // window), (num_inputs - 1) % window
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

    def _check_mask(self, value_RWN: Tensor) -> Tensor:
        """Return which slots are used."""
        num_outputs, num_inputs = self.shape
        kept_RWw = reference.nm_mask_bits(self._tensors["mask"])
        count_RW = kept_RWw.sum(dim=2)
        keep = self._meta["keep"]
        require(bool((count_RW <= keep).all()), "nm: bits of a mask", f"at most {keep}", "more")
        kept_RK = kept_RWw.flatten(1)
        outside = bool(kept_RK[num_outputs:].any()) or bool(kept_RK[:, num_inputs:].any())
        require(not outside, "nm: mask outside the matrix", 0, "others")
        return torch.arange(keep, device=kept_RWw.device).expand_as(value_RWN) < count_RW[:, :, None]

    def num_zeros(self) -> int:
        if "bits" in self._meta and len(zero_scale_strips(self._tensors, self.shape[0])):
            return super().num_zeros()
        value_RWN = reference.nm_values(self._meta, self._tensors)
        return prod(self.shape) - int(value_RWN.count_nonzero())  # a slot that holds nothing is 0

    def mask(self) -> Tensor:
        index_RWN, _ = reference.nm_entries(self._meta, self._tensors)
        return reference.nm_kept(self._meta, self._tensors, index_RWN).contiguous()

    def quantized(self) -> Quantized | None:
        if "bits" not in self._meta:
            return None
        signed_OI = reference.nm_placed(self._meta, *reference.nm_entries(self._meta, self._tensors))
        return from_signed(self._meta, self._tensors, signed_OI)


def fitting_patterns(mask_OI: Tensor) -> tuple[tuple[int, int], ...]:
    """Return those of `PATTERNS` that hold the mask: at most N in a window, and except of 8 at least one."""
    num_rows, num_columns = mask_OI.shape
    bounds = {}
    for window in (4, 8, 16):
        low, high = torch.aminmax(_windows(mask_OI, num_rows, num_columns, window).sum(dim=2))
        bounds[window] = (int(low), int(high))
    return tuple(
        (keep, window)
        for keep, window in PATTERNS
        if bounds[window][1] <= keep and (window == 8 or bounds[window][0] > 0)
    )


def _windows(matrix_OI: Tensor, num_rows: int, num_columns: int, window: int) -> Tensor:
    """Return the matrix padded to [num_rows, whole windows of num_columns] as windows [rows, W, M]."""
    return pad(matrix_OI, num_rows, -(-num_columns // window) * window).unflatten(1, (-1, window))


def _pack(
    values_OI: Tensor,
    mask_OI: Tensor,
    pattern: tuple[int, int] | None,
    values: str,
    quantized: Quantized | None,
) -> NmWeight:
    shape = (mask_OI.shape[0], mask_OI.shape[1])
    codes = None if quantized is None else quantized.declaration()
    fitting = [found for found in fitting_patterns(mask_OI) if codes is not None or found[1] == 16]
    if not fitting or (pattern is not None and pattern not in fitting):
        keep, window = pattern or (12, 16)
        wanted = f"{0 if window == 8 else 1} to {keep} kept in every window of {window} columns"
        fail("nm: mask", wanted, "a window with more or fewer")
    forms = [NmWeight.declare(shape, found, values, codes) for found in fitting if pattern in (None, found)]
    meta = min(forms, key=NmWeight.expected_bytes)
    return NmWeight(meta, _tensors(values_OI, mask_OI, meta) | (pack_scales(quantized) if quantized else {}))


def _tensors(values_OI: Tensor, mask_OI: Tensor, meta: Meta) -> dict[str, Tensor]:
    """Return columns and values in the layout that is declared."""
    keep, window, values = meta["keep"], reference.nm_window(meta), meta["values"]
    num_rows, num_columns = num_strips(values_OI.shape[0]) * 16, num_quads(values_OI.shape[1]) * 4
    mask_RWw = _windows(mask_OI, num_rows, num_columns, window)
    values_RWw = _windows(values_OI, num_rows, num_columns, window)
    columns_RWw = torch.arange(window, dtype=torch.uint8, device=mask_OI.device).expand_as(mask_RWw)
    filled_RWN = (
        torch.arange(keep, device=mask_OI.device) < mask_RWw.sum(dim=2, dtype=torch.uint8)[:, :, None]
    )
    # Boolean indexing lists both sides row by row, window by window, column by column: the orders agree.
    index_RWN = torch.zeros(filled_RWN.shape, dtype=torch.uint8, device=mask_OI.device)
    index_RWN[filled_RWN] = columns_RWw[mask_RWw]
    value_RWN = torch.zeros(filled_RWN.shape, dtype=values_OI.dtype, device=mask_OI.device)
    value_RWN[filled_RWN] = values_RWw[mask_RWw]
    index, value = _to_lanes(index_RWN, window), _to_lanes(value_RWN, window)
    if window == 16:
        return _wide(index, value, values)
    columns = {"mask": _mask_bytes(mask_RWw)} if window == 8 else {"index": _pair_columns(index)}
    return columns | ({"codes": _pair_codes(value)} if values == "int4" else {"values": value})


def _to_lanes(rows_RWN: Tensor, window: int) -> Tensor:
    """[S*16, W, N] -> [S, C, P, 64]."""
    slots = rows_RWN.shape[2] * 16 // window
    rows = rows_RWN.flatten(1).unflatten(1, (-1, slots)).unflatten(0, (-1, 16)).unflatten(3, (-1, 4))
    return rows.permute(0, 2, 3, 1, 4).flatten(3).contiguous()


def _wide(index: Tensor, value: Tensor, values: str) -> dict[str, Tensor]:
    """The tensors of a window of 16."""
    if values == "int4":
        return {"codes": ((value.view(torch.uint8) & 15) << 4) | index}
    return {"index": index[..., 0::2] | (index[..., 1::2] << 4), "values": value}


def _pair_codes(value_SCPL: Tensor) -> Tensor:
    """Two planes of int4 values -> [S, C, 64], the second in the high nibbles."""
    nibbles = value_SCPL.view(torch.uint8) & 15
    return nibbles[:, :, 0] | nibbles[:, :, 1] << 4


def _pair_columns(index_SCPL: Tensor) -> Tensor:
    """Two planes of columns of 0 to 3 -> [S, C/2, 64], two bits each: both planes of an even C, then of the odd one."""
    fields = index_SCPL.unflatten(1, (-1, 2)).flatten(2, 3)
    return fields[:, :, 0] | fields[:, :, 1] << 2 | fields[:, :, 2] << 4 | fields[:, :, 3] << 6


def _mask_bytes(mask_RWw: Tensor) -> Tensor:
    """[S*16, W, 8] (bool) -> [S, C, 2, 16], bit i for column i of a window."""
    powers = 1 << torch.arange(8, dtype=torch.uint8, device=mask_RWw.device)
    bytes_RW = (mask_RWw * powers).sum(dim=2, dtype=torch.uint8)
    return bytes_RW.unflatten(0, (-1, 16)).unflatten(2, (-1, 2)).permute(0, 2, 3, 1).contiguous()
