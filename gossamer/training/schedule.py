"""How far a run has come, by steps or by the clock: its learning rate, when to judge, to keep a state, to end."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from gossamer.errors import UsageError

WARM_UP_STEPS = 8
LAST_RATE = 0.05
"""Of the learning rate, at the end of the cosine."""
JUDGED = 6
"""How often the held-out text is judged on the way, the end included."""
KEPT = 32
"""How often a state is kept in a run that is counted in steps."""
SECONDS_BETWEEN_STATES, SHARE_OF_KEEPING = 30.0, 0.03
"""The same by the clock: not more often, and of all the time no more."""


@dataclass
class Schedule:
    """`seconds` gives what the run has taken so far, in all its processes. One of `steps` and `minutes` is given."""

    steps: int | None
    minutes: float | None
    seconds: Callable[[], float]
    begun: float = 0.0
    """When the first step began, in the same seconds."""
    reserve: float = 0.0
    """Seconds that what comes after the last step will take."""
    longest_step: float = 0.0
    kept_at: float = field(default=0.0, init=False)
    keeping: float = field(default=0.0, init=False)
    """When the last state was kept, and what that took."""
    part: int = field(default=0, init=False)
    """Of the time, in which the held-out text was judged last."""

    def fraction(self, step: int) -> float:
        """Return how much of the training is done, 0 to 1."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.minutes is not None
        whole = 60 * self.minutes - self.reserve - self.begun
        return 1.0 if whole <= 0 else min(1.0, (self.seconds() - self.begun) / whole)

    def rate(self, step: int) -> float:
        """Return the share of the learning rate for a step, counted from 0."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.fraction(step)))
        return (LAST_RATE + (1 - LAST_RATE) * cosine) * min(1.0, (step + 1) / WARM_UP_STEPS)

    def over(self, step: int) -> bool:
        """True if no further step fits. There is one in any case."""
        if self.steps is not None:
            return step >= self.steps
        assert self.minutes is not None
        return step > 0 and self.seconds() + self.longest_step + self.reserve > 60 * self.minutes

    def judges(self, step: int) -> bool:
        """True if the held-out text is to be judged after so many steps."""
        if self.steps is not None:
            return step % math.ceil(self.steps / JUDGED) == 0
        before, self.part = self.part, int(JUDGED * self.fraction(step))
        return self.part > before

    def keeps(self, step: int) -> bool:
        """True if a state is to be kept after so many steps."""
        if self.steps is not None:
            return step % math.ceil(self.steps / KEPT) == 0
        since = self.seconds() - self.kept_at
        return since > max(SECONDS_BETWEEN_STATES, self.keeping / SHARE_OF_KEEPING)

    def left(self, step: int) -> float:
        """Return the seconds that training will still take; infinite before the first step."""
        if self.minutes is not None:
            return max(0.0, 60 * self.minutes - self.reserve - self.seconds())
        done = self.fraction(step)
        return math.inf if done == 0 else (self.seconds() - self.begun) * (1 - done) / done


def check_effort(steps: int | None, minutes: float | None, prefix: str = "") -> None:
    """Raise UsageError unless one of the two is a positive number; `prefix` stands before the names of the options."""
    if (steps is None) == (minutes is None):
        raise UsageError(
            f"--{prefix}minutes or --{prefix}steps: one of the two was expected, to say how long to train."
        )
    if minutes is not None and not 0 < minutes < math.inf:
        raise UsageError(f"--{prefix}minutes {minutes:g}: a positive number was expected.")
    if steps is not None and steps < 1:
        raise UsageError(f"--{prefix}steps {steps}: at least 1 was expected.")
