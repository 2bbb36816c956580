"""Coordinates, compressed rows and compressed columns: one 32-bit index per value, for interchange.

They hold what scipy.sparse and torch.sparse hold, under torch's names. Entries are unique and sorted: by row
then column (coo, csr), by column then row (csc). A stored zero counts as kept.

O output features, I input features, n stored values.
Bytes per weight at density d with 2-byte values: 6d (csr, csc), 10d (coo); a bitmask needs 1/8 + 2d, which is
less above a density of 1/32.
"""

from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy
import torch
from torch import Tensor

from gossamer.formats.bitmask import check_mask
from gossamer.formats.checks import (
    FLOAT_DTYPES,
    Specs,
    check_finite,
    check_pointers,
    check_range,
    fail,
    read_choice,
    read_int,
    read_shape,
    require,
)
from gossamer.formats.weight import PackedWeight, dtype_name, round_values
from gossamer.kernels import reference
from gossamer.kernels.declaration import Meta

if TYPE_CHECKING:  # it takes a quarter of a second
    import scipy.sparse

MAX_STORED = 2**31 - 1
"""Stored items that 32-bit row pointers can count."""


class _SparseWeight(PackedWeight):
    """What the three orders share."""

    row_name: ClassVar[str]
    column_name: ClassVar[str]

    @classmethod
    def tensor_specs(cls, meta: Meta) -> Specs:
        num_outputs, num_inputs = read_shape(meta)
        num_values = read_int(meta, "num_values", 0, min(num_outputs * num_inputs, MAX_STORED))
        lengths = {
            "row_indices": num_values,
            "col_indices": num_values,
            "crow_indices": num_outputs + 1,
            "ccol_indices": num_inputs + 1,
        }
        return {
            cls.row_name: (torch.int32, (lengths[cls.row_name],)),
            cls.column_name: (torch.int32, (lengths[cls.column_name],)),
            "values": (FLOAT_DTYPES[read_choice(meta, "values", FLOAT_DTYPES)], (num_values,)),
        }

    @classmethod
    def pack(cls, weight_OI: Tensor, dtype: torch.dtype, mask_OI: Tensor | None = None) -> Self:
        """Return what the mask keeps (without a mask: what is not zero), rounded to `dtype`."""
        require(dtype in FLOAT_DTYPES.values(), "values", f"one of {', '.join(FLOAT_DTYPES)}", dtype)
        rounded = round_values(weight_OI, dtype)
        if mask_OI is None:
            mask_OI = rounded != 0
        check_mask(mask_OI, weight_OI)
        if cls.format == "csc":
            columns, rows = torch.nonzero(mask_OI.T, as_tuple=True)
        else:
            rows, columns = torch.nonzero(mask_OI, as_tuple=True)
        return cls._from_coordinates(
            (weight_OI.shape[0], weight_OI.shape[1]), rows, columns, rounded[rows, columns]
        )

    @classmethod
    def from_dense(cls, weight_OI: Tensor, dtype: torch.dtype = torch.float32) -> Self:
        """Return every weight that is not zero."""
        return cls.pack(weight_OI, dtype)

    @classmethod
    def from_scipy(cls, array: Any, dtype: torch.dtype = torch.float32) -> Self:
        """Return any scipy.sparse array or matrix; entries given twice are added, stored zeros stay."""
        import scipy.sparse

        entries = scipy.sparse.coo_array(array)
        entries.sum_duplicates()
        order = numpy.lexsort(
            (entries.row, entries.col) if cls.format == "csc" else (entries.col, entries.row)
        )
        rows = torch.from_numpy(entries.row[order].astype(numpy.int64))
        columns = torch.from_numpy(entries.col[order].astype(numpy.int64))
        values = torch.from_numpy(numpy.ascontiguousarray(entries.data[order]))
        rounded = round_values(values[None], dtype)[0] if values.numel() else values.to(dtype)
        return cls._from_coordinates((int(array.shape[0]), int(array.shape[1])), rows, columns, rounded)

    @classmethod
    def from_torch(cls, tensor: Tensor, dtype: torch.dtype = torch.float32) -> Self:
        """Return any 2-d torch.sparse tensor (COO, CSR, CSC, BSR, BSC)."""
        import scipy.sparse

        coordinates = tensor if tensor.layout == torch.sparse_coo else tensor.to_sparse_coo()
        coordinates = coordinates.coalesce()
        rows, columns = coordinates.indices().cpu().numpy()
        values = coordinates.values().to(torch.float32).cpu().numpy()
        return cls.from_scipy(
            scipy.sparse.coo_array((values, (rows, columns)), shape=tuple(tensor.shape)), dtype
        )

    @classmethod
    def _from_coordinates(cls, shape: tuple[int, int], rows: Tensor, columns: Tensor, values: Tensor) -> Self:
        """Build from entries that are already unique and in the format's order."""
        require(values.numel() <= MAX_STORED, "stored values", f"at most {MAX_STORED}", values.numel())
        tensors = {
            cls.row_name: _count(rows, shape[0]) if cls.row_name == "crow_indices" else rows,
            cls.column_name: _count(columns, shape[1]) if cls.column_name == "ccol_indices" else columns,
        }
        meta = {
            "format": cls.format,
            "shape": list(shape),
            "num_values": values.numel(),
            "values": dtype_name(values.dtype),
        }
        return cls(
            meta, {name: index.to(torch.int32) for name, index in tensors.items()} | {"values": values}
        )

    def check(self) -> None:
        num_outputs, num_inputs = self.shape
        num_values = self._meta["num_values"]
        rows, columns = self._tensors[self.row_name], self._tensors[self.column_name]
        what_rows, what_columns = (
            f"{self.format}: tensor {self.row_name}",
            f"{self.format}: tensor {self.column_name}",
        )
        if self.format == "csc":
            check_pointers(what_columns, columns, num_values)
            check_range(what_rows, rows, num_outputs)
            check_ascending(what_rows, columns, rows)
        elif self.format == "csr":
            check_pointers(what_rows, rows, num_values)
            check_range(what_columns, columns, num_inputs)
            check_ascending(what_columns, rows, columns)
        else:
            check_range(what_rows, rows, num_outputs)
            check_range(what_columns, columns, num_inputs)
            keys = rows.long() * num_inputs + columns.long()
            require(
                bool((keys[1:] > keys[:-1]).all()), "coo: entries", "unique, sorted by row, column", "others"
            )
        check_finite(f"{self.format}: tensor values", self._tensors["values"])

    def num_zeros(self) -> int:
        return prod(self.shape) - int(self._tensors["values"].count_nonzero())

    def mask(self) -> Tensor:
        mask_OI = torch.zeros(self.shape, dtype=torch.bool, device=self._tensors["values"].device)
        mask_OI[reference.sparse_coordinates(self._meta, self._tensors)] = True
        return mask_OI

    def to_scipy(self) -> "scipy.sparse.csr_array":
        """Return the stored values as a float32 CSR array, without unpacking."""
        import scipy.sparse

        rows, columns = (i.cpu().numpy() for i in reference.sparse_coordinates(self._meta, self._tensors))
        values = self._tensors["values"].to(torch.float32).cpu().numpy()
        return scipy.sparse.coo_array((values, (rows, columns)), shape=self.shape).tocsr()


class CooWeight(_SparseWeight):
    format = "coo"
    row_name, column_name = "row_indices", "col_indices"

    def to_torch(self) -> Tensor:
        """Return a coalesced float32 torch.sparse_coo tensor."""
        indices = torch.stack(reference.sparse_coordinates(self._meta, self._tensors))
        values = self._tensors["values"].to(torch.float32)
        tensor = torch.sparse_coo_tensor(indices, values, self.shape, check_invariants=True)
        return tensor.coalesce()


class CsrWeight(_SparseWeight):
    format = "csr"
    row_name, column_name = "crow_indices", "col_indices"

    def to_torch(self) -> Tensor:
        """Return a float32 torch.sparse_csr tensor."""
        rows, columns, values = (self._tensors[n] for n in ("crow_indices", "col_indices", "values"))
        return torch.sparse_csr_tensor(
            rows, columns, values.to(torch.float32), self.shape, check_invariants=True
        )


class CscWeight(_SparseWeight):
    format = "csc"
    row_name, column_name = "row_indices", "ccol_indices"

    def to_torch(self) -> Tensor:
        """Return a float32 torch.sparse_csc tensor."""
        columns, rows, values = (self._tensors[n] for n in ("ccol_indices", "row_indices", "values"))
        return torch.sparse_csc_tensor(
            columns, rows, values.to(torch.float32), self.shape, check_invariants=True
        )


def check_ascending(what: str, pointers: Tensor, indices: Tensor) -> None:
    """Raise FormatError unless indices strictly ascend within every row that the (checked) pointers
    delimit.
    """
    row = reference.expand_pointers(pointers)
    same_row = row[1:] == row[:-1]
    if bool((same_row & (indices[1:] <= indices[:-1])).any()):
        fail(what, "strictly ascending within a row", "another order")


def _count(indices: Tensor, size: int) -> Tensor:
    """Return the pointers [size + 1] that compress sorted indices."""
    counts = torch.bincount(indices, minlength=size)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))
