"""How long each block may be trained, where the whole run has to be done in a given time.

What is left once the other work is done is shared out evenly over the blocks that are still to come. What the other
work takes is known from the blocks before.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AROUND_BLOCKS = 0.05
"""Of the whole time: kept for what comes after the blocks."""
FIRST_GUESS = 1.5
"""The other work of the first block takes so many times what it took before its training."""


class TimeBudget:
    """`elapsed` gives the seconds since the run began; without `total`, training takes the time that it takes."""

    def __init__(self, total: float | None, num_blocks: int, elapsed: Callable[[], float]) -> None:
        self.total, self.num_blocks, self.elapsed = total, num_blocks, elapsed
        self.other: list[float] = []
        """What everything but training took in each block before."""

    @contextmanager
    def block(self, number: int) -> Iterator[None]:
        """Open while a block is worked on."""
        self.number, self.begun, self.trained = number, self.elapsed(), 0.0
        yield
        self.other.append(self._spent())

    @contextmanager
    def training(self) -> Iterator[float]:
        """Open while a block is trained; gives the seconds that this may take, none or less if there are none."""
        begun = self.elapsed()
        yield self._seconds()
        self.trained += self.elapsed() - begun

    def _spent(self) -> float:
        return self.elapsed() - self.begun - self.trained

    def _seconds(self) -> float:
        if self.total is None:
            return math.inf
        spent, after = self._spent(), self.num_blocks - self.number - 1
        expected = sum(self.other) / len(self.other) if self.other else FIRST_GUESS * spent
        free = self.total * (1 - AROUND_BLOCKS) - self.elapsed()
        return (free - max(expected - spent, 0.0) - after * expected) / (after + 1)
