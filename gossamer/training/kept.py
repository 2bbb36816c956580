"""The kept weights of one matrix as parameters, and the matrix that they stand for.

Only what is kept is trained: values, gradients and the optimizer's state are vectors of n entries. `working_OI` is the
matrix that the model computes with, exactly what packing the values gives: `refresh` makes it, once a step. Backward
passes add up its gradient at the kept places in `values_n.grad`; `settle` turns that into the gradients of what is
trained. Rounding, to a float type here and to a grid in grid.py, lets gradients pass as they are (straight through).

O output features, I input features, n kept weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gossamer.training.adapter import Adapter
from gossamer.training.places import Places

Kind = Literal["weight", "scale"]
"""What a number that is trained is measured in: weights; a scale's own size."""


@dataclass
class Moving:
    """What a matrix has whose zeros move (moving.py). Then all its weights are in `values_n`."""

    places: Places
    mask_OI: Tensor
    """bool: what is kept now."""
    first_OI: Tensor
    """What was kept at first."""
    soft: float = 1.0
    """The share of themselves with which removed weights still count; the mask stays once it is 0."""
    anchor_OI: Tensor | None = None
    """Of ADMM: z at the kept places, -u at the others; None before the first choice."""


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
        self.moving: Moving | None = None

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
        if self.moving is not None:
            return self.moving.mask_OI
        return self.place(torch.ones_like(self.values_n, dtype=torch.bool))

    def num_kept(self) -> int:
        """How many weights are kept."""
        return self.values_n.numel() if self.moving is None else int(self.moving.mask_OI.sum())

    @torch.no_grad()
    def let_move(self, places: Places, mask_OI: Tensor) -> None:
        """Let kept weights, at first those of a mask, move; made with no mask, which is an entry for each weight."""
        assert self.index_n is None
        self.moving = Moving(places, mask_OI, mask_OI)
        self.values_n.sub_(self.latent().mul_(~mask_OI).view(-1))
        self.refresh()

    def latent(self) -> Tensor:
        """Return a copy of the weights before they are rounded [O, I], where none is left out."""
        return self.values_n.detach().clone().view(self.shape)

    def _soft(self, rounded_OI: Tensor) -> Tensor:
        """Return what the model computes with, where zeros move."""
        if self.moving is None:
            return rounded_OI
        removed_OI = self.latent().mul_(self.moving.soft) if self.moving.soft else torch.zeros(())
        return torch.where(self.moving.mask_OI, rounded_OI, removed_OI)

    def _mask_kept(self) -> dict[str, Tensor]:
        """What a snapshot has of zeros that move."""
        return {} if self.moving is None else {"mask": self.moving.mask_OI.clone()}

    def _put_mask(self, snapshot: dict[str, Tensor]) -> None:
        if self.moving is not None:
            self.moving.mask_OI, self.moving.soft = snapshot["mask"], 0.0

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
        if self.moving is not None and not self.moving.soft:
            self.values_n.grad.mul_(self.moving.mask_OI.view(-1))
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
        return {"values": self.take(self.working_OI).to(self.dtype, copy=True), **self._mask_kept()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        self._put_mask(snapshot)
        self.values_n.copy_(snapshot["values"])
        if self.adapter is not None:
            self.adapter.clear()
        self.refresh()

    def _write(self, added_n: Tensor | None) -> None:
        values_n = self.values_n.detach() if added_n is None else self.values_n.detach() + added_n
        rounded_n = values_n.to(self.dtype).float()
        if self.index_n is None:
            self.working_OI.copy_(self._soft(rounded_n.view(self.shape)))
        else:
            self.working_OI.view(-1).scatter_(0, self.index_n, rounded_n)

    def _settle(self, grad_n: Tensor) -> Tensor:
        return grad_n
