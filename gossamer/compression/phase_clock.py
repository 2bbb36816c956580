"""Where the time of a run goes, under names that a user understands."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

READ = "reading model and text"
SHARE_OUT = "finding what each layer is worth"
RUN_DENSE = "running the dense model"
OBSERVE = "observing what the layers see"
SOLVE = "pruning and rounding"
TRAIN = "training blocks"
RUN = "running the compressed model"
WRITE = "packing and writing"
CHECK = "loading the result as a check"
OTHER = "other"


class PhaseClock:
    """Seconds of each phase. A phase that is begun inside another one stops the outer one's clock meanwhile."""

    def __init__(self, before: Mapping[str, float]) -> None:
        """`before`: what the processes before have taken, in a run that goes on."""
        self._seconds = dict(before)
        self._open: list[str] = []
        self._since = time.monotonic()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """While open, time counts as spent on this."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def seconds(self) -> dict[str, float]:
        """What each phase took so far, in the order in which they were first begun."""
        self._charge()
        return dict(self._seconds)

    def _charge(self) -> None:
        now = time.monotonic()
        if self._open:
            self._seconds[self._open[-1]] = self._seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now
