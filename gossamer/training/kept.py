"""The kept weights of one matrix as parameters, and the matrix that they stand for.

Only what is kept is trained: values, gradients and the optimizer's state are vectors of n entries. `working_OI` is the
matrix that the model computes with, exactly what packing the values gives: `refresh` makes it, once a step. Backward
passes add up its gradient at the kept places in `values_n.grad`; `settle` turns that into the gradients of what is
trained. Rounding, to a float type here and to a grid in grid.py, lets gradients pass as they are (straight through).

O output features, I input features, n kept weights.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from gossamer.training.adapter import Adapter

Kind = Literal["weight", "scale"]
"""What a number that is trained is measured in: weights; a scale's own size."""


class KeptWeight(ABC):
    """One matrix whose kept weights are trained."""

    values_n: nn.Parameter
    """float32, before rounding; collects the gradient of `working_OI` at the kept places."""

    def __init__(self, mask_OI: Tensor) -> None:
        self.shape = (mask_OI.shape[0], mask_OI.shape[1])
        every = bool(mask_OI.all())
        self.index_n = None if every else torch.nonzero(mask_OI.reshape(-1))[:, 0]
        """Places of the kept weights, row by row; None if all are kept."""
        self.working_OI = torch.zeros(self.shape)
        self.adapter: Adapter | None = None

    def take(self, matrix_OI: Tensor) -> Tensor:
        """Return a matrix at the kept places, [n]."""
        flat = matrix_OI.reshape(-1)
        return flat if self.index_n is None else flat.index_select(0, self.index_n)

    def place(self, values_n: Tensor) -> Tensor:
        """Return a matrix with these values at the kept places and zeros elsewhere."""
        if self.index_n is None:
            return values_n.view(self.shape)
        flat = values_n.new_zeros(self.shape[0] * self.shape[1])
        return flat.scatter_(0, self.index_n, values_n).view(self.shape)

    def mask(self) -> Tensor:
        """Return mask_OI (bool): True where a weight is kept."""
        return self.place(torch.ones_like(self.values_n, dtype=torch.bool))

    def trained(self) -> dict[str, tuple[nn.Parameter, Kind]]:
        """What the optimizer moves, by name: the values, or the adapter in their place."""
        if self.adapter is None:
            return {"values": (self.values_n, "weight")}
        return {name: (each, "weight") for name, each in self.adapter.masters().items()}

    @torch.no_grad()
    def refresh(self) -> None:
        """Make `working_OI` from what is trained."""
        self._write(None if self.adapter is None else self.take(self.adapter.product()))

    @torch.no_grad()
    def add(self, change_OI: Tensor) -> None:
        """Add to the kept weights, before they are rounded."""
        self.values_n.add_(self.take(change_OI))
        self.refresh()

    @torch.no_grad()
    def settle(self) -> None:
        """Turn the gradient that was collected into those of what is trained."""
        if self.values_n.grad is None:
            return
        passed_n = self._settle(self.values_n.grad)
        if self.adapter is not None:
            self.adapter.settle(self.place(passed_n))
            self.values_n.grad = None

    @abstractmethod
    def snapshot(self) -> dict[str, Tensor]:
        """Return what `working_OI` is made of, in the types in which it is stored."""

    @abstractmethod
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Have the values of a snapshot; an adapter is merged into them and begins anew."""

    @abstractmethod
    def _write(self, added_n: Tensor | None) -> None:
        """Set `working_OI` to the values, and what an adapter adds to them, rounded."""

    @abstractmethod
    def _settle(self, grad_n: Tensor) -> Tensor:
        """Return the gradient of the weights before rounding; set that of the values and of what goes with them."""


class FloatWeight(KeptWeight):
    """Kept weights that are stored in a float type."""

    def __init__(self, weight_OI: Tensor, mask_OI: Tensor, dtype: torch.dtype) -> None:
        super().__init__(mask_OI)
        self.dtype = dtype
        self.values_n = nn.Parameter(self.take(weight_OI.float()).clone())
        self.refresh()

    def snapshot(self) -> dict[str, Tensor]:
        return {"values": self.take(self.working_OI).to(self.dtype, copy=True)}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        self.values_n.copy_(snapshot["values"])
        if self.adapter is not None:
            self.adapter.clear()
        self.refresh()

    def _write(self, added_n: Tensor | None) -> None:
        values_n = self.values_n.detach() if added_n is None else self.values_n.detach() + added_n
        rounded_n = values_n.to(self.dtype).float()
        if self.index_n is None:
            self.working_OI.view(-1).copy_(rounded_n)
        else:
            self.working_OI.view(-1).scatter_(0, self.index_n, rounded_n)

    def _settle(self, grad_n: Tensor) -> Tensor:
        return grad_n
