"""Zeros that move while `recover` trains: the mask is chosen anew on the way, and stands still at the end.

    anneal   the model computes with M q + (1 - M) t v, t from 1 to 0 along a cosine: q are the weights as they are
             stored, v before rounding. Every few steps M keeps what is largest by |v| sqrt(m2); gradients pass to all
             weights as they are, and removed ones decay: g += DECAY v (1 - M). SR-STE (Zhou et al. 2021, arXiv
             2102.04010), softened.
    admm     t is 1; the loss has lambda/2 |v - z + u|^2 beside it, lambda from 0 to LAMBDA along a cosine. Every few
             steps z keeps what is largest of v + u by |v + u| sqrt(m2), and u becomes u + v - z. ELSA (arXiv
             2510.01650).

m2 is Adam's second moment, an estimate of the diagonal of the Fisher matrix. Kept weights move among the places that
leave the form of a matrix its bytes (places.py). Removed weights begin at 0, so that training begins with the very
predictions of the folder. After MOVING of the run t is 0 and M stays; removed weights then get no gradient.

O output features, I input features.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from gossamer.training.kept import KeptWeight
from gossamer.training.student import Student

MaskMode = Literal["fixed", "anneal", "admm"]
MASK_MODES: tuple[MaskMode, ...] = ("fixed", "anneal", "admm")
MOVING = 0.65
"""Of a run: how long masks move."""
CHOSEN_EVERY = 8
"""Steps from one choice of the masks to the next."""
DECAY = 2e-4
"""The paper's, of the weights that are removed at the time."""
LAMBDA = 0.01
"""ELSA's own example."""


@dataclass
class Mover:
    """Moves the masks of a student, of those matrices that allow it."""

    student: Student
    mode: MaskMode

    def weights(self) -> Iterator[tuple[str, KeptWeight]]:
        """Those whose zeros move."""
        return ((name, weight) for name, weight in self.student.weights() if weight.moving is not None)

    @torch.no_grad()
    def pull(self, fraction: float) -> None:
        """Add to the gradients what draws removed weights to zero; `fraction` of the run is done."""
        for _name, weight in self.weights():
            moving, grad_n = weight.moving, weight.values_n.grad
            if moving is None or grad_n is None or not moving.soft:
                continue
            latent_OI = weight.latent()
            if self.mode == "anneal":
                grad_n.add_(latent_OI.mul_(~moving.mask_OI).view(-1), alpha=DECAY)
            else:
                anchor_OI = latent_OI * moving.mask_OI if moving.anchor_OI is None else moving.anchor_OI
                grad_n.add_((latent_OI - anchor_OI).view(-1), alpha=LAMBDA * _rise(fraction))

    @torch.no_grad()
    def move(self, optimizer: torch.optim.Optimizer, step: int, fraction: float) -> None:
        """Choose the masks anew, where it is time, after `step` steps; `fraction` of the run is done then.

        `Student.refresh` has to follow.
        """
        ends = fraction >= MOVING
        for _name, weight in self.weights():
            moving = weight.moving
            if moving is None or not moving.soft:
                continue
            if ends or step % CHOSEN_EVERY == 0:
                self._choose(weight, optimizer)
            moving.soft = 0.0 if ends else (1 - _rise(fraction) if self.mode == "anneal" else 1.0)

    def _choose(self, weight: KeptWeight, optimizer: torch.optim.Optimizer) -> None:
        moving, latent_OI = weight.moving, weight.latent()
        assert moving is not None
        if self.mode == "admm" and moving.anchor_OI is not None:
            latent_OI -= moving.anchor_OI * ~moving.mask_OI
        importance_OI = optimizer.state[weight.values_n]["exp_avg_sq"].view(weight.shape).sqrt()
        mask_OI = moving.places.keep_largest(latent_OI.abs().mul_(importance_OI), moving.mask_OI)
        assert torch.equal(mask_OI.sum(1), moving.mask_OI.sum(1)), "another number of zeros in a row"
        moving.mask_OI = mask_OI
        if self.mode == "admm":
            moving.anchor_OI = torch.where(moving.mask_OI, latent_OI, -latent_OI)

    @contextmanager
    def hard(self) -> Iterator[None]:
        """While open, the student computes with what it would be if it were stored now."""
        soft = {name: weight.moving.soft for name, weight in self.weights() if weight.moving}
        self._soften(dict.fromkeys(soft, 0.0))
        yield
        self._soften(soft)

    def _soften(self, soft: dict[str, float]) -> None:
        for name, weight in self.weights():
            if weight.moving is not None and weight.moving.soft != soft[name]:
                weight.moving.soft = soft[name]
                weight.refresh()

    def record(self) -> dict[str, Any] | None:
        """Return how many kept weights have other places than at first, ready for JSON; None if none could move."""
        changed = kept = 0
        for _name, weight in self.weights():
            if weight.moving is not None:
                changed += int((weight.moving.mask_OI & ~weight.moving.first_OI).sum())
                kept += int(weight.moving.first_OI.sum())
        return {"mask": self.mode, "moved": changed, "of": kept, "share": changed / kept} if kept else None


def _rise(fraction: float) -> float:
    """Return 0 to 1 along a cosine, over the part of a run in which masks move."""
    return 0.5 * (1 - math.cos(math.pi * min(1.0, fraction / MOVING)))
