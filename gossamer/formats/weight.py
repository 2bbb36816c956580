"""What all packed weights have in common: a declaration, tensors, bytes, a product.

O output features, I input features, T tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from gossamer.errors import FormatError
from gossamer.formats.checks import Specs, check_tensors, fail
from gossamer.formats.quantized import Quantized
from gossamer.kernels import table
from gossamer.kernels.declaration import Meta
from gossamer.kernels.table import ACTIVATIONS, Operator

if TYPE_CHECKING:  # it takes a quarter of a second
    import scipy.sparse


class PackedWeight(ABC):
    """A weight [O, I] as tensors plus the declaration that says what their bytes mean.

    Subclasses are the formats. Each also has a `declare`, which makes a declaration from plain values, and a `pack`,
    which makes a weight from what a method decided.
    """

    format: ClassVar[str]

    def __init__(self, meta: Meta, tensors: dict[str, Tensor]):
        self._meta = meta
        self._tensors = tensors
        self._operator: Operator | None = None

    @classmethod
    def from_tensors(cls, meta: Meta, tensors: Mapping[str, Tensor]) -> Self:
        """Return the packed weight after checking everything; FormatError when tensors and declaration
        disagree.
        """
        check_tensors(cls.format, cls.tensor_specs(meta), tensors)
        weight = cls(dict(meta), {name: tensor.contiguous() for name, tensor in tensors.items()})
        weight.check()
        return weight

    @classmethod
    @abstractmethod
    def tensor_specs(cls, meta: Meta) -> Specs:
        """Return {tensor name: (dtype, shape)}; FormatError when the declaration cannot be meant."""

    @classmethod
    def expected_bytes(cls, meta: Meta) -> int:
        """Return the exact size that a weight so declared has."""
        return sum(dtype.itemsize * prod(shape) for dtype, shape in cls.tensor_specs(meta).values())

    @abstractmethod
    def check(self) -> None:
        """Raise FormatError when the contents of the tensors contradict the declaration."""

    @abstractmethod
    def mask(self) -> Tensor:
        """Return mask_OI (bool): True where a weight is kept, even if its value is 0."""

    def num_zeros(self) -> int:
        """Return how many weights are exactly zero in `unpack()`; formats that can, count without unpacking."""
        return int((self.unpack() == 0).sum())

    def quantized(self) -> Quantized | None:
        """Return the codes and scales that were packed, None where values are floats.

        Removed weights have the code in the middle.
        """
        return None

    def unpack(self) -> Tensor:
        """Return weight_OI in float32, exactly what the bytes mean."""
        return table.unpack(self._meta, self._tensors)

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        num_outputs, num_inputs = self._meta["shape"]
        return num_outputs, num_inputs

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors.values())

    def meta(self) -> dict[str, Any]:
        """Return the declaration, ready for JSON: everything that is needed besides the tensors."""
        return dict(self._meta)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name; `tensor_specs(meta)` gives their types and shapes."""
        return dict(self._tensors)

    def matmul(self, x_TI: Tensor, activations: str = "float") -> Tensor:
        """Return y_TO = x W^T in float32; `int8` rounds the inputs of integer weights as the fast kernels
        do.
        """
        if activations not in ACTIVATIONS:
            raise FormatError(f"activations: expected one of {', '.join(ACTIVATIONS)}, got {activations!r}")
        if x_TI.ndim != 2 or x_TI.shape[1] != self.shape[1]:
            raise FormatError(f"x: expected [tokens, {self.shape[1]}], got {list(x_TI.shape)}")
        if self._operator is None:
            self._operator = table.product(self._meta, self._tensors)
        return self._operator(x_TI.to(torch.float32).contiguous(), activations)

    def to_scipy(self) -> "scipy.sparse.csr_array":
        """Return the kept weights (kept zeros included) as a float32 CSR array."""
        import scipy.sparse

        rows, columns = (index.cpu().numpy() for index in torch.nonzero(self.mask(), as_tuple=True))
        values = self.unpack().cpu().numpy()[rows, columns]
        return scipy.sparse.coo_array((values, (rows, columns)), shape=self.shape).tocsr()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._meta}, {self.num_bytes} bytes)"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_operator": None}


def require_matrix(name: str, matrix: Tensor) -> None:
    """Raise FormatError unless this is a non-empty matrix of finite numbers."""
    if matrix.ndim != 2 or 0 in matrix.shape:
        fail(f"{name}: shape", "a matrix with at least one row and one column", list(matrix.shape))
    if not bool(torch.isfinite(matrix).all()):
        fail(f"{name}: values", "finite numbers", "NaN or infinity")


def round_values(weight_OI: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight in the float type it is stored in; FormatError when a weight does not fit."""
    require_matrix("weight", weight_OI)
    rounded = weight_OI.to(dtype)
    if not bool(torch.isfinite(rounded).all()):
        largest = float(weight_OI.abs().max())
        raise FormatError(f"weight: {largest:g} does not fit in {dtype}. Use bfloat16 or float32.")
    return rounded


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name that a declaration gives to a float type."""
    return str(dtype).removeprefix("torch.")
