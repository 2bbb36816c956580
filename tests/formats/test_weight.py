"""What every packed weight can do: products of odd masks and of 16-bit weights."""

import torch

from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.dense import DenseWeight
from tests.formats.cases import random_mask, weight


def test_dense_weights_are_widened_piece_by_piece() -> None:
    packed = DenseWeight.pack(weight(1100, 1000), torch.bfloat16)  # more than two pieces of 524 rows
    x = torch.randn(2, 1000)
    assert torch.allclose(packed.matmul(x), x @ packed.unpack().T, atol=1e-3)


def test_empty_and_full_masks_have_products_too() -> None:
    for density in (0.0, 1.0):
        packed = BitmaskWeight.pack_float(weight(17, 70), random_mask(17, 70, density), torch.bfloat16)
        x = torch.randn(3, 70)
        assert torch.allclose(packed.matmul(x), x @ packed.unpack().T, atol=1e-4)
