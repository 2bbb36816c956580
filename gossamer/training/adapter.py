"""Masked low-rank adapters: W + B A at the kept places, and nowhere else, so that merging adds no weight.

LoRA (Hu et al. 2021, arXiv 2106.09685), masked so that it can be merged (PERP, Zimmer et al. 2023, arXiv 2312.15230):
the product is masked in training already, so that what is merged is what was trained.

O output features, I input features, R the rank.
"""

import math

import torch
from torch import Tensor, nn


class Adapter:
    """What is added to a matrix: B A, zero at first."""

    def __init__(self, shape: tuple[int, int], rank: int, generator: torch.Generator) -> None:
        num_outputs, num_inputs = shape
        rank = min(rank, *shape)
        drawn_RI = torch.rand(rank, num_inputs, generator=generator, device=generator.device)
        self.right_RI = nn.Parameter((2 * drawn_RI - 1) / math.sqrt(num_inputs))
        self.left_OR = nn.Parameter(torch.zeros(num_outputs, rank))

    def masters(self) -> dict[str, nn.Parameter]:
        """What is trained."""
        return {"left": self.left_OR, "right": self.right_RI}

    def product(self) -> Tensor:
        """Return B A."""
        return self.left_OR @ self.right_RI

    def settle(self, grad_OI: Tensor) -> None:
        """Set the gradients from that of the masked product, which is zero outside of the mask."""
        self.left_OR.grad = grad_OI @ self.right_RI.T
        self.right_RI.grad = self.left_OR.T @ grad_OI

    @torch.no_grad()
    def clear(self) -> None:
        """Add nothing again."""
        self.left_OR.zero_()
