"""Dense: rounded once, mask kept only where zeros allow it."""

import pytest
import torch

from gossamer.errors import FormatError
from gossamer.formats.dense import DenseWeight
from tests.formats.cases import DTYPES, random_mask, weight


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_is_rounded_once_and_comes_back(dtype: torch.dtype) -> None:
    dense = weight(7, 9)
    packed = DenseWeight.pack(dense, dtype)
    assert torch.equal(packed.unpack(), dense.to(dtype).float())
    assert bool(packed.mask().all())
    assert packed.num_bytes == 63 * dtype.itemsize


def test_the_mask_of_a_masked_weight_comes_back() -> None:
    mask = random_mask(7, 9)
    packed = DenseWeight.pack(weight(7, 9), torch.bfloat16, mask)
    assert torch.equal(packed.mask(), mask)
    assert torch.equal(packed.unpack() != 0, mask)


def test_a_kept_weight_that_rounds_to_zero_is_refused() -> None:
    dense = weight(7, 9)
    dense[2, 3] = 1e-12
    with pytest.raises(FormatError, match="kept weight that is zero"):
        DenseWeight.pack(dense, torch.float16, torch.ones(7, 9, dtype=torch.bool))
