"""Where the kept weights of a matrix may move, so that its form keeps its bytes: which columns share a count.

Every row keeps as many weights as it had; a row of N:M as many in each window of M columns; a row of a bitmask as many
in its even and in its odd quads of columns, which are two streams of values. Blocks do not move.

O output features, I input features; W windows of C columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.formats.weight import PackedWeight
from gossamer.kernels.reference import nm_window

QUAD = 4


@dataclass(frozen=True)
class Places:
    """Windows of a row, side by side, and in each the columns among which the number of kept weights is fixed."""

    columns: int
    """Of a window."""
    groups: tuple[Tensor, ...]

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
    """Return where the kept weights of a packed matrix may move; None where its form says that they stay."""
    num_inputs, form = packed.shape[1], packed.meta()
    if form["format"] == "bitmask":
        return in_quads(num_inputs)
    if form["format"] == "nm" and num_inputs % nm_window(form) == 0:
        return Places(nm_window(form), (torch.arange(nm_window(form)),))
    if form["format"] in ("dense", "integer") and form["masked"]:
        return in_rows(num_inputs)
    return None


def in_rows(num_inputs: int) -> Places:
    """Return the places of a matrix that is stored as it is."""
    return Places(num_inputs, (torch.arange(num_inputs),))


def in_quads(num_inputs: int) -> Places:
    """Return the places of a bitmask."""
    odd_I = (torch.arange(num_inputs) // QUAD) % 2 == 1
    groups = (torch.nonzero(~odd_I)[:, 0], torch.nonzero(odd_I)[:, 0])
    return Places(num_inputs, tuple(group for group in groups if len(group)))
