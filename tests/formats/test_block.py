"""Blocks: whole blocks come back exactly, at any block size and odd shape."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import FormatError
from gossamer.formats.block import BlockWeight
from gossamer.formats.packed import from_tensors
from tests.formats.cases import DTYPES, block_mask, random_mask, shapes, weight

blocks = st.tuples(st.integers(1, 9), st.integers(1, 20))


@settings(max_examples=50, deadline=None)
@given(shapes, blocks, st.sampled_from(DTYPES), st.sampled_from((0.0, 0.4, 1.0)))
def test_blocks_of_any_size_come_back_exactly(shape, block, dtype: torch.dtype, density: float) -> None:
    dense, mask = weight(*shape), block_mask(*shape, block, density)
    packed = BlockWeight.pack(dense, block, dtype, mask)
    back = from_tensors(packed.meta(), packed.tensors())
    assert torch.equal(back.unpack(), dense.to(dtype).float() * mask)
    assert torch.equal(back.mask(), mask)
    assert back.num_bytes == BlockWeight.expected_bytes(packed.meta())
    x = torch.randn(3, shape[1], dtype=torch.float64)
    expected = x @ (dense.to(dtype).double() * mask).T
    assert torch.allclose(back.matmul(x.float()).double(), expected, atol=1e-4)


def test_blocks_agree_with_scipy() -> None:
    dense = weight(12, 24) * block_mask(12, 24, (4, 8))
    packed = BlockWeight.from_dense(dense, (4, 8))
    assert numpy.array_equal(packed.to_scipy_blocks().toarray(), dense.numpy())
    assert numpy.array_equal(packed.to_scipy().toarray(), dense.numpy())


def test_bytes_are_blocks_and_one_index_each() -> None:
    mask = torch.zeros(32, 64, dtype=torch.bool)
    mask[8:16, 16:32] = mask[24:32, :16] = True
    packed = BlockWeight.pack(weight(32, 64), (8, 16), torch.bfloat16, mask)
    assert packed.num_bytes == 2 * (8 * 16 * 2 + 4) + (4 + 1) * 4


def test_a_mask_that_cuts_through_a_block_is_refused() -> None:
    with pytest.raises(FormatError, match="whole blocks of 4 x 8"):
        BlockWeight.pack(weight(12, 24), (4, 8), torch.float32, random_mask(12, 24))
