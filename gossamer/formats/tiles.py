"""The tile order that all kernels read: strips of 16 rows, quads of 4 columns.

O rows, I columns, S = ceil(O/16) strips, Kp = ceil(I/64)*64 padded columns, Q = Kp/4 quads, G groups.
The 64 values of (strip s, quad q) lie together; lane 4r+j is row 16s+r, column 4q+j. kernels/reference.py has
the way back.
"""

import torch
from torch import Tensor
from torch.nn import functional


def num_strips(num_rows: int) -> int:
    return -(-num_rows // 16)


def num_quads(num_columns: int) -> int:
    return -(-num_columns // 64) * 16


def to_tiles(matrix_OI: Tensor) -> Tensor:
    """Return the matrix, padded with zeros, in tile order [S, Q, 64]."""
    strips, quads = num_strips(matrix_OI.shape[0]), num_quads(matrix_OI.shape[1])
    padded = pad(matrix_OI, strips * 16, quads * 4)
    return padded.view(strips, 16, quads, 4).transpose(1, 2).reshape(strips, quads, 64)


def pad(matrix: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return the matrix with zeros added below and to the right."""
    if tuple(matrix.shape) == (num_rows, num_columns):
        return matrix.contiguous()
    return functional.pad(matrix, (0, num_columns - matrix.shape[1], 0, num_rows - matrix.shape[0]))


def tile_scales(scale_OG: Tensor) -> Tensor:
    """Return scales (or minima) as float16 [S, G, 16], zero in the rows of padding."""
    strips = num_strips(scale_OG.shape[0])
    padded = pad(scale_OG.to(torch.float16), strips * 16, scale_OG.shape[1])
    return padded.view(strips, 16, -1).transpose(1, 2).contiguous()
