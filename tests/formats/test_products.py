"""Products of packed weights against float64."""

import numpy
import pytest
import torch

from gossamer.errors import FormatError
from gossamer.formats.products import sparse_dense, sparse_sparse
from gossamer.formats.sparse import CsrWeight
from tests.formats.cases import EXAMPLES, random_mask, weight


@pytest.mark.parametrize("name", EXAMPLES)
def test_sparse_times_dense_is_the_product(name: str) -> None:
    a = EXAMPLES[name]
    x = torch.randn(a.shape[1], 5, generator=torch.Generator().manual_seed(1))
    expected = a.unpack().double() @ x.double()
    assert torch.allclose(sparse_dense(a, x).double(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", EXAMPLES)
def test_sparse_times_sparse_is_the_product(name: str) -> None:
    a = EXAMPLES[name]
    b = CsrWeight.pack(weight(a.shape[1], 11), torch.float32, random_mask(a.shape[1], 11, 0.2))
    expected = a.unpack().double().numpy() @ b.unpack().double().numpy()
    assert numpy.allclose(sparse_sparse(a, b).toarray(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", EXAMPLES)
def test_scipy_gets_every_kept_weight(name: str) -> None:
    a = EXAMPLES[name]
    array = a.to_scipy()
    assert array.nnz == int(a.mask().sum())
    assert numpy.array_equal(array.toarray(), a.unpack().numpy())


def test_shapes_that_do_not_fit_are_refused() -> None:
    a = EXAMPLES["csr-float32"]
    with pytest.raises(FormatError, match="right side"):
        sparse_dense(a, torch.zeros(3, 3))
    with pytest.raises(FormatError, match="right side"):
        sparse_sparse(a, a)
    with pytest.raises(FormatError, match="x: expected"):
        a.matmul(torch.zeros(2, 3))
    with pytest.raises(FormatError, match="activations"):
        a.matmul(torch.zeros(2, a.shape[1]), "int4")
