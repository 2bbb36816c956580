"""Products of packed weights: sparse x dense on the packed bytes, sparse x sparse through scipy.

O output features of A, I input features of A, T tokens, M columns of B.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from gossamer.errors import FormatError
from gossamer.formats.weight import PackedWeight

if TYPE_CHECKING:  # it takes a quarter of a second
    import scipy.sparse


def sparse_dense(a: PackedWeight, x_IM: Tensor) -> Tensor:
    """Return A X [O, M] in float32, for a dense X [I, M]."""
    if x_IM.ndim != 2 or x_IM.shape[0] != a.shape[1]:
        raise FormatError(
            f"sparse x dense: expected a right side of [{a.shape[1]}, M], got {list(x_IM.shape)}"
        )
    return a.matmul(x_IM.T).T.contiguous()


def sparse_sparse(a: PackedWeight, b: PackedWeight) -> "scipy.sparse.csr_array":
    """Return A B [O, M] as a float32 CSR array (SpGEMM of scipy), for packed A [O, I] and B [I, M].

    Time and memory are proportional to the products of kept weights, not to the dense sizes.
    """
    if a.shape[1] != b.shape[0]:
        raise FormatError(f"sparse x sparse: expected a right side of [{a.shape[1]}, M], got {list(b.shape)}")
    return (a.to_scipy() @ b.to_scipy()).tocsr()
