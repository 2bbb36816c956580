"""How much of a change that was to be made to a matrix arrived in it, after pruning and rounding had their say.

    D    the change, and D_k what of it falls on kept weights        A    what changed in fact

    dropped          1 - |D_k|^2 / |D|^2            fell on removed weights
    arrived          <A, D_k> / |D_k|^2             1 if all of it did, on the average; 0 if nothing did
    cosine           <A, D_k> / (|A| |D_k|)         1 if nothing else changed
    relative error   |A - D_k| / |D_k|

O output features, I input features, n kept weights.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Arrival:
    """Sums over one matrix, or over several."""

    whole: float
    """|D|^2."""
    kept: float
    """|D_k|^2."""
    moved: float
    """|A|^2."""
    along: float
    """<A, D_k>."""
    missed: float
    """|A - D_k|^2."""
    kept_weights: int
    changed_weights: int
    """Kept weights whose value is another one now."""

    @classmethod
    def of(cls, change_OI: Tensor, wanted_n: Tensor, moved_n: Tensor) -> Self:
        """Return the sums for a change, what of it falls on kept weights, and what became of these."""
        return cls(
            whole=_inner(change_OI, change_OI),
            kept=_inner(wanted_n, wanted_n),
            moved=_inner(moved_n, moved_n),
            along=_inner(moved_n, wanted_n),
            missed=_inner(moved_n - wanted_n, moved_n - wanted_n),
            kept_weights=wanted_n.numel(),
            changed_weights=int((moved_n != 0).sum()),
        )

    @classmethod
    def together(cls, arrivals: Iterable["Arrival"]) -> Self:
        """Return the sums over several matrices."""
        every = list(arrivals)
        sums = {key: sum(getattr(each, key) for each in every) for key in cls.__slots__}
        return cls(**sums)

    @property
    def dropped(self) -> float | None:
        """None where no change was to be made; so with the others."""
        return 1 - self.kept / self.whole if self.whole else None

    @property
    def arrived(self) -> float | None:
        return self.along / self.kept if self.kept else None

    @property
    def cosine(self) -> float | None:
        return self.along / math.sqrt(self.moved * self.kept) if self.moved and self.kept else None

    @property
    def relative_error(self) -> float | None:
        return math.sqrt(self.missed / self.kept) if self.kept else None

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "arrived": self.arrived,
            "cosine": self.cosine,
            "relative_error": self.relative_error,
            "dropped": self.dropped,
            "kept_weights": self.kept_weights,
            "changed_weights": self.changed_weights,
        }


def _inner(one: Tensor, other: Tensor) -> float:
    return float((one.double() * other.double()).sum())
