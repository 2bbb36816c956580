"""The best low-rank part of a weight, where an error costs what it does to the layer's outputs.

argmin over A [O, R], B [R, I] of tr((E - A B) H (E - A B)^T) for a matrix E and the damped Gram matrix H = L L^T.
E L truncated to R singular values is the best product there is (Eckart, Young 1936; SVD-LLM, Wang et al. 2024, arXiv
2403.07378, section 3.2; EoRA, Liu et al. 2024, arXiv 2410.21271, section 3). Since that is U U^T E L, with U the
leading eigenvectors of E H E^T, A = U and B = U^T E: neither factor nor inverse of H is needed. U is found by subspace
iteration with more columns than asked for (Halko et al. 2011, arXiv 0909.4061, algorithm 4.4), which may begin where
an earlier call for a similar E ended.

Shapes: O output features, I input features, R the rank, K columns of the subspace.
Cost:   K (2 O I + I^2) multiply-adds a round.
"""

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gossamer.formats.factors import Factors
from gossamer.methods.solve.settings import MethodSettings

EXTRA = 16
"""Columns of the subspace beyond the rank, and a quarter of the rank more."""
ROUNDS = 8
"""From a random start; a flat spectrum needs more, but there any subspace is as good."""


class LowRankTarget(MethodSettings):
    """The rank of the factors: a number for all layers, or a share of each layer's size."""

    rank: int | None = Field(default=None, ge=1, le=65536)
    """Columns of A and rows of B; null: what `rank_share` says."""
    rank_share: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Parameters of A and B together as a share of the layer's weights; where both are null 0.05, for svd 0.5."""

    DEFAULT_SHARE: ClassVar[float] = 0.05

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.rank is not None and self.rank_share is not None:
            raise ValueError("give `rank` or `rank_share`, not both")
        return self

    def rank_for(self, num_outputs: int, num_inputs: int) -> int:
        """Return the rank for a layer: at least 1, at most the smaller side."""
        rank = self.rank
        if rank is None:
            share = self.DEFAULT_SHARE if self.rank_share is None else self.rank_share
            rank = round(share * num_outputs * num_inputs / (num_outputs + num_inputs))
        return min(max(rank, 1), num_outputs, num_inputs)


def start(error_OI: Tensor, rank: int) -> Tensor:
    """Return a random subspace [O, K] of the columns of a matrix, the same at each call."""
    num_outputs, num_inputs = error_OI.shape
    columns = min(rank + rank // 4 + EXTRA, num_outputs, num_inputs)
    generator = torch.Generator().manual_seed(0)
    noise_IK = torch.randn(num_inputs, columns, generator=generator, device=generator.device)
    return torch.linalg.qr(error_OI @ noise_IK.to(error_OI.device)).Q


def turn(error_OI: Tensor, hessian_II: Tensor, basis_OK: Tensor) -> Tensor:
    """Return the subspace after a round: closer to the leading eigenvectors of E H E^T."""
    return torch.linalg.qr(error_OI @ (hessian_II @ (error_OI.T @ basis_OK))).Q


def within(error_OI: Tensor, hessian_II: Tensor, basis_OK: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best A [O, R] and B [R, I] whose A lies in the subspace, float32."""
    image_KI = basis_OK.T @ error_OI
    energy_KK = (image_KI @ hessian_II @ image_KI.T).double()
    leading_KR = torch.linalg.eigh((energy_KK + energy_KK.T) / 2).eigenvectors[:, -rank:].float()
    return basis_OK @ leading_KR, leading_KR.T @ image_KI


def best_factors(error_OI: Tensor, hessian_II: Tensor, rank: int) -> Factors:
    """Return the factors of least loss for a matrix E, rounded to float16 values."""
    basis_OK = start(error_OI, rank)
    for _ in range(ROUNDS):
        basis_OK = turn(error_OI, hessian_II, basis_OK)
    return Factors.rounded(*within(error_OI, hessian_II, basis_OK, rank))
