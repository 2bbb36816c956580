"""The kernels: which function serves which format on which device, for which operation.

    matmul   (meta, tensors, x_TI, activations) -> y_TO    y = x W^T in float32
    unpack   (meta, tensors) -> weight_OI                  float32
    rows     (meta, tensors, rows) -> [*rows.shape, I]     float32; the others stay packed
    matrix   (meta, tensors) -> a native matrix            checked once, then multiplied at little cost for a call;
                                                           None where this kind of the format has no kernel

A device is torch's name of it ("cpu", "cuda"), or "reference": plain torch, which serves tensors on any device. Where a
device has no row, the reference takes over, and the log says so once. A kernel reads a declaration (`meta`) and tensors
that formats/ has checked, never a config.

O output features, I input features, T tokens.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from gossamer.errors import FormatError
from gossamer.kernels import cpu, reference
from gossamer.kernels.dispatch import native_available

logger = logging.getLogger(__name__)

Meta = Mapping[str, Any]
Tensors = Mapping[str, Tensor]
Operator = Callable[[Tensor, str], Tensor]
"""(x_TI contiguous float32, activations) -> y_TO float32."""
NativeMatrix = cpu.CpuMatrix | cpu.LowRankMatrix

ACTIVATIONS = ("float", "int8")
"""What a product may make of its inputs: leave them, or round them to 8 bits where weights are integers."""


# ---- low rank: made of the rows of its parts ---------------------------------------------------------------


def low_rank_matmul(meta: Meta, tensors: Tensors, x_TI: Tensor, activations: str = "float") -> Tensor:
    """Return y_TO = x S^T + (x B^T) A^T by the reference; S is left out where there is no residual."""

    def product(name: str, x: Tensor) -> Tensor:
        part, own = reference.low_rank_part(meta, tensors, name)
        y: Tensor = KERNELS[part["format"], "reference", "matmul"](part, own, x, activations)
        return y

    y_TO = product("left", product("right", x_TI))
    return y_TO if meta["residual"] is None else y_TO.add_(product("residual", x_TI))


def low_rank_unpack(meta: Meta, tensors: Tensors) -> Tensor:
    """Return weight_OI (float32) of a `low_rank` matrix."""
    left_OR, right_RI, residual_OI = (
        None if meta[name] is None else unpack(*reference.low_rank_part(meta, tensors, name))
        for name in ("left", "right", "residual")
    )
    assert left_OR is not None and right_RI is not None
    weight_OI = left_OR @ right_RI
    return weight_OI if residual_OI is None else weight_OI.add_(residual_OI)


def low_rank_matrix(meta: Meta, tensors: Tensors) -> cpu.LowRankMatrix | None:
    """Return the native parts of a `low_rank` matrix; None when one of them has no kernel."""
    parts: dict[str, cpu.CpuMatrix | None] = {}
    for name in ("left", "right", "residual"):
        made = None if meta[name] is None else matrix(*reference.low_rank_part(meta, tensors, name))
        if made is None and meta[name] is not None:
            return None
        assert not isinstance(made, cpu.LowRankMatrix)
        parts[name] = made
    left, right = parts["left"], parts["right"]
    assert left is not None and right is not None
    return cpu.LowRankMatrix(parts["residual"], left, right)


# ---- the table ---------------------------------------------------------------------------------------------

KERNELS: dict[tuple[str, str, str], Callable[..., Any]] = {
    ("dense", "reference", "matmul"): reference.dense_matmul,
    ("integer", "reference", "matmul"): reference.integer_matmul,
    ("bitmask", "reference", "matmul"): reference.bitmask_matmul,
    ("nm", "reference", "matmul"): reference.nm_matmul,
    ("block", "reference", "matmul"): reference.block_matmul,
    ("coo", "reference", "matmul"): reference.sparse_matmul,
    ("csr", "reference", "matmul"): reference.sparse_matmul,
    ("csc", "reference", "matmul"): reference.sparse_matmul,
    ("low_rank", "reference", "matmul"): low_rank_matmul,
    # torch's own products are the fast ones here
    ("dense", "cpu", "matmul"): reference.dense_matmul,
    ("dense", "cuda", "matmul"): reference.dense_matmul,
    ("dense", "cpu", "matrix"): cpu.dense,
    ("integer", "cpu", "matrix"): cpu.integer,
    ("bitmask", "cpu", "matrix"): cpu.bitmask,
    ("nm", "cpu", "matrix"): cpu.nm,
    ("low_rank", "cpu", "matrix"): low_rank_matrix,
    ("dense", "reference", "unpack"): reference.dense_unpack,
    ("integer", "reference", "unpack"): reference.integer_unpack,
    ("bitmask", "reference", "unpack"): reference.bitmask_unpack,
    ("nm", "reference", "unpack"): reference.nm_unpack,
    ("block", "reference", "unpack"): reference.block_unpack,
    ("coo", "reference", "unpack"): reference.sparse_unpack,
    ("csr", "reference", "unpack"): reference.sparse_unpack,
    ("csc", "reference", "unpack"): reference.sparse_unpack,
    ("low_rank", "reference", "unpack"): low_rank_unpack,
    ("dense", "reference", "rows"): reference.dense_rows,
    ("integer", "reference", "rows"): reference.integer_rows,
}
"""(format, device, operation) -> function."""

LOOKUP_FORMATS = tuple(name for name, _device, operation in KERNELS if operation == "rows")
"""Formats whose rows can be read one by one: an embedding must be stored in one of them."""


# ---- asking it ---------------------------------------------------------------------------------------------


def product(meta: Meta, tensors: Tensors) -> Operator:
    """Return the fastest product x W^T for tensors that have been checked, on the device they are on.

    FormatError when the native kernels refuse the tensors.
    """
    device = _device(tensors)
    matmul = KERNELS.get((meta["format"], device, "matmul"))
    if matmul is None and device == "cpu" and (made := matrix(meta, tensors)) is not None:
        return made.matmul
    if matmul is None:
        matmul = KERNELS[meta["format"], "reference", "matmul"]
        if device != "cpu" or native_available():  # where it is missing, dispatch.py has said so
            say_once(f"no kernel on {device} for {describe(meta)}; the reference in plain torch takes over")

    def operator(x_TI: Tensor, activations: str) -> Tensor:
        y_TO: Tensor = matmul(meta, tensors, x_TI, activations)
        return y_TO

    return operator


def matrix(meta: Meta, tensors: Tensors) -> NativeMatrix | None:
    """Return the native matrix over tensors that have been checked.

    None without native kernels, on another device than the CPU, or for a kind that has none. FormatError when they
    refuse the tensors.
    """
    make = KERNELS.get((meta["format"], "cpu", "matrix"))
    if make is None or not native_available() or _device(tensors) != "cpu":
        return None
    try:
        made: NativeMatrix | None = make(meta, tensors)
    except ValueError as error:
        raise FormatError(f"{describe(meta)}: the native kernels refuse it: {error}") from error
    return made


def unpack(meta: Meta, tensors: Tensors) -> Tensor:
    """Return weight_OI in float32, on the device of the tensors."""
    weight_OI: Tensor = KERNELS[meta["format"], "reference", "unpack"](meta, tensors)
    return weight_OI


def rows(meta: Meta, tensors: Tensors, rows: Tensor) -> Tensor:
    """Return the chosen rows [*rows.shape, I] in float32, 0 <= row < O, of one of LOOKUP_FORMATS."""
    values: Tensor = KERNELS[meta["format"], "reference", "rows"](meta, tensors, rows)
    return values


def describe(meta: Meta) -> str:
    """Return what kind of matrix this is, for messages."""
    return " ".join(f"{key}={meta[key]}" for key in ("format", "values", "bits", "group_size") if key in meta)


def say_once(message: str) -> None:
    """Warn in the log, unless the same was said before."""
    if message not in _said:
        _said.add(message)
        logger.warning(message)


_said: set[str] = set()


def _device(tensors: Tensors) -> str:
    """Return the type of the device that the tensors are on."""
    kinds = {tensor.device.type for tensor in tensors.values()}
    if len(kinds) != 1:
        raise FormatError(f"packed tensors: expected all on one device, got {', '.join(sorted(kinds))}")
    return kinds.pop()
