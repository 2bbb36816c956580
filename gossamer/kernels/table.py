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
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from gossamer.errors import FormatError
from gossamer.kernels import cpu, reference
from gossamer.kernels.declaration import Meta, Tensors
from gossamer.kernels.dispatch import native_available

logger = logging.getLogger(__name__)

Operator = Callable[[Tensor, str], Tensor]
"""(x_TI contiguous float32, activations) -> y_TO float32."""
NativeMatrix = cpu.CpuMatrix | cpu.LowRankMatrix
K = TypeVar("K")

ACTIVATIONS = ("float", "int8")
"""What a product may make of its inputs: leave them, or round them to 8 bits where weights are integers."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """What serves one format on one device; None where nothing does."""

    matmul: Callable[[Meta, Tensors, Tensor, str], Tensor] | None = None
    unpack: Callable[[Meta, Tensors], Tensor] | None = None
    rows: Callable[[Meta, Tensors, Tensor], Tensor] | None = None
    matrix: Callable[[Meta, Tensors], NativeMatrix | None] | None = None


# ---- low rank: made of the rows of its parts ---------------------------------------------------------------


def low_rank_matmul(meta: Meta, tensors: Tensors, x_TI: Tensor, activations: str = "float") -> Tensor:
    """Return y_TO = x S^T + (x B^T) A^T by the reference; S is left out where there is no residual."""

    def product(name: str, x: Tensor) -> Tensor:
        part, own = reference.low_rank_part(meta, tensors, name)
        return _there(KERNELS[part["format"], "reference"].matmul)(part, own, x, activations)

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

KERNELS: dict[tuple[str, str], Kernels] = {
    ("dense", "reference"): Kernels(reference.dense_matmul, reference.dense_unpack, reference.dense_rows),
    ("integer", "reference"): Kernels(
        reference.integer_matmul, reference.integer_unpack, reference.integer_rows
    ),
    ("bitmask", "reference"): Kernels(reference.bitmask_matmul, reference.bitmask_unpack),
    ("nm", "reference"): Kernels(reference.nm_matmul, reference.nm_unpack),
    ("block", "reference"): Kernels(reference.block_matmul, reference.block_unpack),
    ("coo", "reference"): Kernels(reference.sparse_matmul, reference.sparse_unpack),
    ("csr", "reference"): Kernels(reference.sparse_matmul, reference.sparse_unpack),
    ("csc", "reference"): Kernels(reference.sparse_matmul, reference.sparse_unpack),
    ("low_rank", "reference"): Kernels(low_rank_matmul, low_rank_unpack),
    # torch's own products are the fast ones here
    ("dense", "cpu"): Kernels(reference.dense_matmul, matrix=cpu.dense),
    ("dense", "cuda"): Kernels(reference.dense_matmul),
    ("integer", "cpu"): Kernels(matrix=cpu.integer),
    ("bitmask", "cpu"): Kernels(matrix=cpu.bitmask),
    ("nm", "cpu"): Kernels(matrix=cpu.nm),
    ("low_rank", "cpu"): Kernels(matrix=low_rank_matrix),
}
"""By format and device."""

LOOKUP_FORMATS = tuple(name for (name, _device), kernels in KERNELS.items() if kernels.rows is not None)
"""Formats whose rows can be read one by one: an embedding must be stored in one of them."""


# ---- asking it ---------------------------------------------------------------------------------------------


def product(meta: Meta, tensors: Tensors) -> Operator:
    """Return the fastest product x W^T for tensors that have been checked, on the device they are on.

    FormatError when the native kernels refuse the tensors.
    """
    device = _device(tensors)
    matmul = KERNELS.get((meta["format"], device), Kernels()).matmul
    if matmul is None and device == "cpu" and (made := matrix(meta, tensors)) is not None:
        return made.matmul
    if matmul is None:
        matmul = _there(KERNELS[meta["format"], "reference"].matmul)
        if device != "cpu" or native_available():  # where it is missing, dispatch.py has said so
            say_once(f"no kernel on {device} for {describe(meta)}; the reference in plain torch takes over")

    def operator(x_TI: Tensor, activations: str) -> Tensor:
        return matmul(meta, tensors, x_TI, activations)

    return operator


def matrix(meta: Meta, tensors: Tensors) -> NativeMatrix | None:
    """Return the native matrix over tensors that have been checked.

    None without native kernels, on another device than the CPU, or for a kind that has none. FormatError when they
    refuse the tensors.
    """
    make = KERNELS.get((meta["format"], "cpu"), Kernels()).matrix
    if make is None or not native_available() or _device(tensors) != "cpu":
        return None
    try:
        return make(meta, tensors)
    except ValueError as error:
        raise FormatError(f"{describe(meta)}: the native kernels refuse it: {error}") from error


def unpack(meta: Meta, tensors: Tensors) -> Tensor:
    """Return weight_OI in float32, on the device of the tensors."""
    return _there(KERNELS[meta["format"], "reference"].unpack)(meta, tensors)


def rows(meta: Meta, tensors: Tensors, rows: Tensor) -> Tensor:
    """Return the chosen rows [*rows.shape, I] in float32, 0 <= row < O, of one of LOOKUP_FORMATS."""
    return _there(KERNELS[meta["format"], "reference"].rows)(meta, tensors, rows)


def _there(kernel: K | None) -> K:
    """A kernel that the table is known to have (tests/kernels/test_table.py)."""
    assert kernel is not None
    return kernel


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
