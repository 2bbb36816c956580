"""Blocks of r rows by c columns, stored whole or not at all (block compressed sparse rows).

A matrix whose sides are not multiples of the block is padded with zeros. Columns of blocks ascend within a
row of blocks.

O output features, I input features, R = ceil(O/r) rows and C = ceil(I/c) columns of blocks, K stored blocks.
Bytes per weight at block density d: d * (bytes of a value + 4/(r c)), plus 4/(r I) for the row pointers.
"""

from math import prod
from typing import TYPE_CHECKING

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
    read_pair,
    read_shape,
    require,
)
from gossamer.formats.sparse import MAX_STORED, check_ascending
from gossamer.formats.tiles import pad
from gossamer.formats.weight import PackedWeight, dtype_name, round_values
from gossamer.kernels import reference
from gossamer.kernels.declaration import Meta

if TYPE_CHECKING:  # it takes a quarter of a second
    import scipy.sparse


class BlockWeight(PackedWeight):
    format = "block"

    @classmethod
    def declare(
        cls, shape: tuple[int, int], block: tuple[int, int], num_blocks: int, dtype: torch.dtype
    ) -> Meta:
        return {
            "format": "block",
            "shape": list(shape),
            "block": list(block),
            "num_blocks": num_blocks,
            "values": dtype_name(dtype),
        }

    @classmethod
    def tensor_specs(cls, meta: Meta) -> Specs:
        num_rows, num_columns = _grid(read_shape(meta), read_pair(meta, "block"))
        height, width = read_pair(meta, "block")
        num_blocks = read_int(meta, "num_blocks", 0, min(num_rows * num_columns, MAX_STORED))
        dtype = FLOAT_DTYPES[read_choice(meta, "values", FLOAT_DTYPES)]
        return {
            "crow_indices": (torch.int32, (num_rows + 1,)),
            "col_indices": (torch.int32, (num_blocks,)),
            "values": (dtype, (num_blocks, height, width)),
        }

    @classmethod
    def pack(
        cls,
        weight_OI: Tensor,
        block: tuple[int, int],
        dtype: torch.dtype,
        mask_OI: Tensor | None = None,
    ) -> "BlockWeight":
        """Return the blocks that the mask keeps (without a mask: those that are not all zero), rounded to
        `dtype`.

        FormatError when the mask cuts through a block.
        """
        require(dtype in FLOAT_DTYPES.values(), "values", f"one of {', '.join(FLOAT_DTYPES)}", dtype)
        shape = (weight_OI.shape[0], weight_OI.shape[1])
        require(min(block) >= 1, "block", "two positive integers", block)
        blocks_RCrc = _blocks(round_values(weight_OI, dtype), block)
        if mask_OI is None:
            kept_RC = (blocks_RCrc != 0).flatten(2).any(dim=2)
        else:
            check_mask(mask_OI, weight_OI)
            kept = block_mask(mask_OI, block)
            if kept is None:
                fail(
                    "block: mask",
                    f"whole blocks of {block[0]} x {block[1]}",
                    "a mask that cuts through a block",
                )
            kept_RC = kept
        meta = cls.declare(shape, block, int(kept_RC.sum()), dtype)
        tensors = {
            "crow_indices": torch.nn.functional.pad(kept_RC.sum(dim=1).cumsum(0), (1, 0)).to(torch.int32),
            "col_indices": torch.nonzero(kept_RC)[:, 1].to(torch.int32),
            "values": blocks_RCrc[kept_RC],
        }
        return cls(meta, tensors)

    @classmethod
    def from_dense(
        cls, weight_OI: Tensor, block: tuple[int, int] = (16, 16), dtype: torch.dtype = torch.float32
    ) -> "BlockWeight":
        """Return every block that is not all zero."""
        return cls.pack(weight_OI, block, dtype)

    def check(self) -> None:
        meta, tensors = self._meta, self._tensors
        shape, block = self.shape, (meta["block"][0], meta["block"][1])
        _, num_columns = _grid(shape, block)
        check_pointers("block: tensor crow_indices", tensors["crow_indices"], meta["num_blocks"])
        check_range("block: tensor col_indices", tensors["col_indices"], num_columns)
        check_ascending("block: tensor col_indices", tensors["crow_indices"], tensors["col_indices"])
        check_finite("block: tensor values", tensors["values"])
        last_row, last_column = tensors["values"], tensors["values"]
        last_row = last_row[int(tensors["crow_indices"][-2]) :, (shape[0] - 1) % block[0] + 1 :]
        last_column = last_column[tensors["col_indices"] == num_columns - 1][
            :, :, (shape[1] - 1) % block[1] + 1 :
        ]
        empty = not bool(last_row.any()) and not bool(last_column.any())
        require(empty, "block: values outside the matrix", 0, "others")

    def num_zeros(self) -> int:
        return prod(self.shape) - int(
            self._tensors["values"].count_nonzero()
        )  # outside the matrix they are 0

    def mask(self) -> Tensor:
        kept = torch.ones_like(self._tensors["values"], dtype=torch.bool)
        return reference.place_blocks(self._meta, self._tensors, kept).contiguous()

    def to_scipy_blocks(self) -> "scipy.sparse.bsr_array":
        """Return the blocks as a float32 BSR array of the padded shape [R r, C c]."""
        import scipy.sparse

        height, width = self._meta["block"]
        num_rows, num_columns = _grid(self.shape, (height, width))
        parts = [self._tensors[name].cpu() for name in ("values", "col_indices", "crow_indices")]
        values, columns, rows = parts[0].to(torch.float32).numpy(), parts[1].numpy(), parts[2].numpy()
        return scipy.sparse.bsr_array((values, columns, rows), shape=(num_rows * height, num_columns * width))


def block_mask(mask_OI: Tensor, block: tuple[int, int]) -> Tensor | None:
    """Return kept_RC (bool), one entry per block, or None when the mask cuts through a block."""
    kept_RC = _blocks(mask_OI, block).flatten(2).any(dim=2)
    whole = kept_RC.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    matches = torch.equal(whole[: mask_OI.shape[0], : mask_OI.shape[1]], mask_OI)
    return kept_RC if matches else None


def _grid(shape: tuple[int, int], block: tuple[int, int]) -> tuple[int, int]:
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def _blocks(matrix_OI: Tensor, block: tuple[int, int]) -> Tensor:
    """Return the padded matrix as blocks [R, C, r, c]."""
    num_rows, num_columns = _grid((matrix_OI.shape[0], matrix_OI.shape[1]), block)
    padded = pad(matrix_OI, num_rows * block[0], num_columns * block[1])
    return padded.view(num_rows, block[0], num_columns, block[1]).transpose(1, 2)
