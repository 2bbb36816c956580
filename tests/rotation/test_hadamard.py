"""Hadamard matrices are what their definition says, and rotations are orthogonal, whatever the order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossamer.rotation.hadamard import hadamard, random_rotation

UNKNOWN = (52, 92, 100, 116, 156, 172, 184, 188)
"""Multiples of four up to 200 that Paley reaches only over fields of prime powers, or not at all."""


def test_every_order_up_to_200_that_primes_and_doubling_give_is_found() -> None:
    for order in range(1, 201):
        matrix = hadamard(order)
        assert (matrix is not None) == (order in (1, 2) or (order % 4 == 0 and order not in UNKNOWN)), order
        if matrix is not None:
            assert bool((matrix.abs() == 1).all())
            assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


@given(size=st.integers(1, 130), seed=st.integers(0, 2**63 - 1))
def test_a_rotation_is_orthogonal(size: int, seed: int) -> None:
    matrix_NN = random_rotation(size, seed).of(torch.eye(size))
    torch.testing.assert_close(matrix_NN @ matrix_NN.T, torch.eye(size).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [64, 80, 96, 112, 128, 256, 576, 896, 1536, 2560, 3584, 4096, 5120])
def test_sizes_of_real_models_get_a_hadamard_matrix_in_two_small_factors(size: int) -> None:
    rotation = random_rotation(size, 0)
    assert rotation.is_hadamard
    assert len(rotation.left_AA) + len(rotation.right_BB) <= 4 * size**0.5
    spread = rotation.of(torch.eye(size)[3])
    torch.testing.assert_close(spread.abs(), torch.full((size,), size**-0.5).double())


def test_it_is_the_product_with_the_whole_matrix_and_heads_are_turned_alike() -> None:
    rotation = random_rotation(12, 1)
    matrix_NN = torch.kron(rotation.left_AA, rotation.right_BB) * rotation.signs_N
    vectors = torch.randn(2000, 3, 12, generator=torch.Generator().manual_seed(0))
    expected = vectors.double() @ matrix_NN.T
    torch.testing.assert_close(rotation.of(vectors), expected)
    heads = vectors.flatten(1).T.contiguous().T  # not contiguous, as a transposed weight
    rotation.turn(heads)
    torch.testing.assert_close(heads, expected.flatten(1).float())


def test_seeds_differ_in_signs() -> None:
    first, again, other = (random_rotation(64, seed) for seed in (1, 1, 2))
    assert torch.equal(first.signs_N, again.signs_N)
    assert not torch.equal(first.signs_N, other.signs_N)
