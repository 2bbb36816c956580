"""A parameter that is trained as a whole: a norm, a bias, a small matrix that no method packs.

The optimizer moves a master in float32; the model computes with what is stored of it.
"""

import torch
from torch import Tensor, nn


class PlainWeight:
    """One parameter of the model, and its master."""

    def __init__(self, parameter: nn.Parameter, dtype: torch.dtype) -> None:
        self.parameter, self.dtype = parameter, dtype
        self.master = nn.Parameter(parameter.detach().float().clone())
        parameter.data = self.master.detach().clone()  # it may be mapped from its file
        parameter.requires_grad_(True)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the model the master's values, rounded as they are stored."""
        self.parameter.copy_(self.master.to(self.dtype))

    def settle(self) -> None:
        """Hand the gradient to the master."""
        self.master.grad, self.parameter.grad = self.parameter.grad, None

    def stored(self) -> Tensor:
        """Return the values in the type in which they are stored."""
        return self.parameter.detach().to(self.dtype, copy=True)

    @torch.no_grad()
    def restore(self, stored: Tensor) -> None:
        """Have these values."""
        self.master.copy_(stored)
        self.refresh()
