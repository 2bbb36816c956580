"""Coordinates, compressed rows and columns: exact, sorted, and the same as scipy's and torch's."""

import numpy
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.formats.packed import from_tensors
from gossamer.formats.sparse import CooWeight, CscWeight, CsrWeight
from tests.formats.cases import DTYPES, masks, random_mask, shapes, weight

KINDS = (CooWeight, CsrWeight, CscWeight)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from(KINDS), shapes, st.sampled_from(DTYPES))
def test_values_and_masks_come_back_exactly(data: st.DataObject, kind, shape, dtype: torch.dtype) -> None:
    dense, mask = weight(*shape), data.draw(masks(*shape))
    packed = kind.pack(dense, dtype, mask)
    back = from_tensors(packed.meta(), packed.tensors())
    assert torch.equal(back.unpack(), dense.to(dtype).float() * mask)
    assert torch.equal(back.mask(), mask)
    assert back.num_bytes == kind.expected_bytes(packed.meta())


def test_compressed_indices_are_those_of_scipy() -> None:
    dense = weight(9, 13) * random_mask(9, 13, 0.3)
    for kind, array in (
        (CsrWeight, scipy.sparse.csr_array(dense.numpy())),
        (CscWeight, scipy.sparse.csc_array(dense.numpy())),
    ):
        tensors = list(kind.from_dense(dense).tensors().values())
        pointers, indices = (tensors[0], tensors[1]) if kind is CsrWeight else (tensors[1], tensors[0])
        assert pointers.tolist() == array.indptr.tolist()
        assert indices.tolist() == array.indices.tolist()
        assert numpy.array_equal(tensors[2].numpy(), array.data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["coo", "csr", "csc", "bsr", "dok", "lil"])
def test_any_scipy_array_goes_in_and_comes_out(kind, source: str) -> None:
    array = scipy.sparse.random_array(
        (8, 12), density=0.3, dtype=numpy.float32, rng=numpy.random.default_rng(0)
    )
    packed = kind.from_scipy(array.asformat(source))
    from_tensors(packed.meta(), packed.tensors())
    assert numpy.array_equal(packed.to_scipy().toarray(), array.toarray())


def test_duplicates_are_added_and_stored_zeros_stay() -> None:
    array = scipy.sparse.coo_array(([1.0, 2.0, 0.0], ([1, 1, 0], [2, 2, 3])), shape=(2, 4))
    packed = CsrWeight.from_scipy(array)
    assert packed.unpack().tolist() == [[0, 0, 0, 0], [0, 0, 3, 0]]
    assert packed.mask().sum() == 2
    assert packed.to_scipy().nnz == 2


@pytest.mark.filterwarnings("ignore:Sparse CS[RC] tensor support is in beta")
@pytest.mark.parametrize("kind", KINDS)
def test_torch_sparse_tensors_go_in_and_come_out(kind) -> None:
    dense = weight(8, 12) * random_mask(8, 12, 0.3)
    for tensor in (
        dense.to_sparse_coo(),
        dense.to_sparse_csr(),
        dense.to_sparse_csc(),
        dense.to_sparse_bsr((2, 3)),
    ):
        packed = kind.from_torch(tensor)
        assert torch.equal(packed.unpack(), dense)
        assert torch.equal(packed.to_torch().to_dense(), dense)


def test_bytes_are_one_index_per_value() -> None:
    mask = random_mask(10, 20)
    stored = int(mask.sum())
    assert CooWeight.pack(weight(10, 20), torch.bfloat16, mask).num_bytes == 10 * stored
    assert CsrWeight.pack(weight(10, 20), torch.bfloat16, mask).num_bytes == 6 * stored + 4 * 11
    assert CscWeight.pack(weight(10, 20), torch.float32, mask).num_bytes == 8 * stored + 4 * 21
