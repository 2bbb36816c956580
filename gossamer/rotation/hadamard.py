"""Orthogonal matrices that spread what is in one coordinate evenly over all: Hadamard matrices with random signs.

Entries of a Hadamard matrix are 1 or -1 and its rows are orthogonal, so that divided by sqrt(N) it is a rotation
whose every entry has the same size. Orders: twice an order (Sylvester); q + 1 for a prime q = 3 mod 4 and
2 (q + 1) for a prime q = 1 mod 4 (Paley 1933, *On orthogonal matrices*). Random signs in front make another one
for each seed (QuaRot, arXiv 2404.00456: randomized Hadamard matrices).

X any vectors, N order, A and B orders of its two factors, H heads, Q prime.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PART = 1024
"""Vectors that are turned at once, in float64."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """The orthogonal matrix (left x right) diag(signs), with the Kronecker product of two small factors.

    Two products with small matrices cost A + B multiply-adds a number instead of N.
    """

    left_AA: Tensor
    right_BB: Tensor
    signs_N: Tensor
    is_hadamard: bool
    """False: a random orthogonal matrix, for an order that no Hadamard matrix is known here."""

    @property
    def size(self) -> int:
        return len(self.signs_N)

    def of(self, vectors_XN: Tensor) -> Tensor:
        """Return the turned vectors in float64."""
        signed_XAB = (vectors_XN.double() * self.signs_N).unflatten(-1, (len(self.left_AA), -1))
        return (self.left_AA @ signed_XAB @ self.right_BB.T).flatten(-2)

    def turn(self, vectors: Tensor) -> None:
        """Turn the last axis in place: all of it, or each head apart where it is several times as long."""
        for part_XHN in vectors.unflatten(-1, (-1, self.size)).split(PART):
            part_XHN.copy_(self.of(part_XHN))


def random_rotation(size: int, seed: int) -> Rotation:
    """Return the rotation of order `size` that belongs to `seed`: Hadamard where there is one."""
    generator = torch.Generator().manual_seed(seed)
    signs_N = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
    splits = [(2**power, size >> power) for power in range(size.bit_length()) if size % 2**power == 0]
    for left, right in sorted(splits, key=sum):
        right_BB = hadamard(right)
        if right_BB is not None:
            left_AA = hadamard(left)
            assert left_AA is not None  # a power of two
            return Rotation(left_AA / math.sqrt(left), right_BB / math.sqrt(right), signs_N, True)
    random_NN = torch.randn(size, size, generator=generator, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    return Rotation(one, torch.linalg.qr(random_NN).Q, signs_N, False)


def hadamard(order: int) -> Tensor | None:
    """Return a Hadamard matrix in float64, None where neither Sylvester nor Paley over a prime gives one."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if order % 2:
        return None
    if order % 4 == 0 and (order - 1) % 4 == 3 and _is_prime(order - 1):
        return torch.eye(order, dtype=torch.float64) + _bordered(order - 1, -1)
    half = order // 2
    if order % 4 == 0 and (half - 1) % 4 == 1 and _is_prime(half - 1):
        zeros = torch.tensor([[1.0, -1.0], [-1.0, -1.0]]).double()
        others = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
        return torch.kron(torch.eye(half).double(), zeros) + torch.kron(_bordered(half - 1, 1), others)
    smaller = hadamard(half)
    return None if smaller is None else torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double(), smaller)


def _bordered(prime: int, sign: int) -> Tensor:
    """[Q + 1, Q + 1]: 1 if i - j is a square mod `prime`, -1 if not, 0 on the diagonal; with a border of ones.

    The border's column has the sign given: -1 makes the matrix skew, 1 symmetric.
    """
    character = torch.full((prime,), -1.0, dtype=torch.float64)
    character[torch.arange(prime) ** 2 % prime] = 1.0
    character[0] = 0.0
    index = torch.arange(prime)
    bordered = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    bordered[0, 1:], bordered[1:, 0] = 1.0, sign
    bordered[1:, 1:] = character[(index[:, None] - index[None, :]) % prime]
    return bordered


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
