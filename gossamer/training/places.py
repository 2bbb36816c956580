"""Where the kept weights of a matrix may move, so that its form keeps its bytes and its mask its pattern.

Every row keeps as many weights as it had; a row of N:M as many in each window of M columns; a row of a bitmask as many
in its even and in its odd quads of columns, which are two streams of values. Blocks do not move.

The form alone does not tell the pattern: 2:4 of floats, or of asymmetric codes, is stored as a bitmask or as 8:16, and
blocks of codes as a bitmask. What a mask looks like does: chance makes no mask whose windows all hold as many.

O output features, I input features; W windows of C columns.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.formats.block import block_mask
from gossamer.formats.weight import PackedWeight
from gossamer.kernels.reference import nm_window
from gossamer.methods.solve.pattern import MAX_WINDOW

QUAD = 4
CELLS = tuple(cell for side in (2, 3, 5, 7) for cell in ((1, side), (side, 1)))
"""Rows x columns. A mask of blocks with a side that 2, 3, 5 or 7 divides is made of such cells, as are whole rows and
whole columns that are removed."""
FILLED = 0.9
"""Of the N of an N:M mask, on the average of its windows: kept weights that are zero look removed in some forms."""
ROWS_FIRST = 64
"""Looked at before the whole mask is."""


@dataclass(frozen=True)
class Places:
    """Windows of a row, side by side, and in each the columns among which the number of kept weights is fixed."""

    columns: int
    """Of a window."""
    groups: tuple[Tensor, ...]
    pattern: int | None = None
    """M, where the mask is N:M."""

    def keep_largest(self, score_OI: Tensor, mask_OI: Tensor) -> Tensor:
        """Return mask_OI of the largest scores: as many in each group as the mask that is given keeps there."""
        score_WC, mask_WC = (each_OI.reshape(-1, self.columns) for each_OI in (score_OI, mask_OI))
        new_WC = torch.zeros_like(mask_WC)
        for group_c in self.groups:
            wanted_W1 = mask_WC[:, group_c].sum(1, keepdim=True)
            order_Wc = score_WC[:, group_c].argsort(dim=1, descending=True, stable=True)
            ranked_Wc = (torch.arange(len(group_c)) < wanted_W1).expand_as(order_Wc)
            new_WC[:, group_c] = torch.zeros_like(ranked_Wc).scatter(1, order_Wc, ranked_Wc)
        return new_WC.view_as(mask_OI)


def places_of(packed: PackedWeight) -> Places | None:
    """Return where the kept weights of a packed matrix may move; None where form or mask says that they stay."""
    form, mask_OI = packed.meta(), packed.mask()
    if form["format"] == "bitmask":
        return places_in(mask_OI, streams=True)
    if form["format"] == "nm":
        return places_in(mask_OI, window=nm_window(form))
    if form["format"] in ("dense", "integer") and form["masked"]:
        return places_in(mask_OI)
    return None


def places_in(mask_OI: Tensor, *, window: int | None = None, streams: bool = False) -> Places | None:
    """Return where what a mask keeps may move; None where it is made of blocks, whole rows or whole columns.

    `window`: the form's own, of columns. `streams`: even and odd quads are counted apart.
    """
    if any(block_mask(mask_OI, cell) is not None for cell in CELLS):
        return None
    pattern = nm_of(mask_OI)
    finer = pattern is not None and (window is None or window % pattern == 0)
    return grouped(mask_OI.shape[1], pattern if finer else window, streams, pattern)


def grouped(num_inputs: int, window: int | None, streams: bool, pattern: int | None = None) -> Places:
    """Return the places of windows of columns, the last of which may be shorter, and within each of the two streams."""
    window = window or num_inputs
    columns = math.lcm(window, 2 * QUAD if streams else 1)
    columns = columns if num_inputs % columns == 0 else num_inputs
    column_C = torch.arange(columns)
    label_C = 2 * (column_C // window) + (column_C // QUAD % 2 if streams else 0)
    groups = tuple(torch.nonzero(label_C == label)[:, 0] for label in label_C.unique())
    return Places(columns, groups, pattern)


def nm_of(mask_OI: Tensor) -> int | None:
    """Return the smallest M for which a mask is N:M, or has an N of its own in each row; None if it is not."""
    largest = min(MAX_WINDOW, mask_OI.shape[1] // 2)
    return next(
        (m for m in range(2, largest + 1) if _is_nm(mask_OI[:ROWS_FIRST], m) and _is_nm(mask_OI, m)), None
    )


def _is_nm(mask_OI: Tensor, m: int) -> bool:
    whole = mask_OI.shape[1] // m * m
    count_OW = mask_OI[:, :whole].unflatten(1, (-1, m)).sum(2)
    most = int(count_OW.max())
    if most < m and float(count_OW.float().mean()) >= FILLED * most > 0:
        return True
    return bool((count_OW == count_OW[:, :1]).all()) and bool(((count_OW > 0) & (count_OW < m)).any())
