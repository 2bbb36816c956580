"""Packed matrices on the CPU, run by `gossamer.kernels._native` (csrc/README.md states layouts and promises).

Arrays are checked when a matrix is built and kept without a copy; they must not be changed afterwards. A call
passes bare addresses, which keeps its overhead near a microsecond.

O output features, I input features, T tokens.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gossamer.kernels.declaration import Meta, Tensors
from gossamer.kernels.dispatch import native_module

if TYPE_CHECKING:
    from gossamer.kernels import _native


class CpuMatrix:
    """A packed matrix [O, I] and its product."""

    __slots__ = ("_matmul", "_matrix", "num_inputs", "num_outputs")

    def __init__(self, matrix: "_native.Matrix", shape: tuple[int, int]):
        self._matrix = matrix
        self._matmul = matrix.matmul
        self.num_outputs, self.num_inputs = shape

    @property
    def native(self) -> "_native.Matrix":
        """The matrix as `gossamer.kernels._native` has it, for the engine."""
        return self._matrix

    def matmul(self, x_TI: Tensor, activations: str = "float") -> Tensor:
        """Return y_TO = x W^T in float32. x_TI is contiguous float32 on the CPU.

        `int8` rounds activations to 8 bits per 64 columns (32 when the weights have groups of 32); weights that
        are floats ignore it. Raise ValueError for any other tensor: native code trusts the address it gets.
        """
        if x_TI.dtype is not torch.float32 or not x_TI.is_contiguous() or not x_TI.is_cpu:
            raise ValueError(f"x: expected contiguous float32 on the CPU, got {x_TI.dtype} on {x_TI.device}")
        num_tokens, num_inputs = x_TI.shape
        if num_inputs != self.num_inputs:
            raise ValueError(f"x: expected [tokens, {self.num_inputs}], got {list(x_TI.shape)}")
        y_TO = x_TI.new_empty(num_tokens, self.num_outputs)  # half the time of torch.empty with a dtype
        if num_tokens:
            self._matmul(x_TI.data_ptr(), num_tokens, y_TO.data_ptr(), activations == "int8")
        return y_TO

    def unpack(self) -> Tensor:
        """Return weight_OI in float32, as the native code reads the bytes."""
        weight_OI = torch.empty((self.num_outputs, self.num_inputs), dtype=torch.float32)
        self._matrix.unpack(weight_OI.data_ptr())
        return weight_OI


def integer(meta: Meta, tensors: Tensors) -> CpuMatrix | None:
    """Return the product of an `integer` matrix, or None without native kernels.

    ValueError when tensors contradict `meta`; so too below.
    """
    native = native_module()
    if native is None:
        return None
    shape = _shape(meta)
    matrix = native.IntegerMatrix(shape, meta["bits"], meta["group_size"], **tensors)
    return CpuMatrix(matrix, shape)


def bitmask(meta: Meta, tensors: Tensors) -> CpuMatrix | None:
    """Return the product of a `bitmask` matrix; None without native kernels or when it is asymmetric."""
    native = native_module()
    if native is None or "minimum" in tensors:
        return None
    shape = _shape(meta)
    matrix = native.BitmaskMatrix(shape, meta["values"], group_size=meta.get("group_size"), **tensors)
    return CpuMatrix(matrix, shape)


def nm(meta: Meta, tensors: Tensors) -> CpuMatrix | None:
    """Return the product of an `nm` matrix, or None without native kernels."""
    native = native_module()
    if native is None:
        return None
    shape = _shape(meta)
    matrix = native.NMMatrix(
        shape,
        meta["keep"],
        meta["values"],
        group_size=meta.get("group_size"),
        window=meta.get("window", 16),
        **tensors,
    )
    return CpuMatrix(matrix, shape)


class LowRankMatrix:
    """S + A B as native matrices, and its product S x + A (B x); `residual` is None when A B is the whole."""

    __slots__ = ("left", "residual", "right")

    def __init__(self, residual: CpuMatrix | None, left: CpuMatrix, right: CpuMatrix):
        self.residual, self.left, self.right = residual, left, right

    def matmul(self, x_TI: Tensor, activations: str = "float") -> Tensor:
        """Return y_TO as `CpuMatrix.matmul` does."""
        y_TO = self.left.matmul(self.right.matmul(x_TI, activations), activations)
        return y_TO if self.residual is None else y_TO.add_(self.residual.matmul(x_TI, activations))


def dense(meta: Meta, tensors: Tensors) -> CpuMatrix | None:
    """Return the product of a `dense` matrix, or None without native kernels."""
    native = native_module()
    if native is None:
        return None
    shape, weight_OI = _shape(meta), tensors["weight"]
    kind = str(weight_OI.dtype).removeprefix("torch.")
    return CpuMatrix(native.DenseMatrix(shape, kind, weight_OI), shape)


def _shape(meta: Meta) -> tuple[int, int]:
    num_outputs, num_inputs = meta["shape"]
    return num_outputs, num_inputs
