"""Several texts, each with a weight: how many windows of each are learnt from.

    wiki.jsonl:0.7 news.jsonl:0.3

A weight is a share of the windows. The text that is short of its share is used up; of the others every so many windows
are taken, spread over the whole text, and none twice. n_i windows are there, c_i are taken:

    c_i = max(1, round(w_i * min_j n_j / w_j)),  the weights w adding up to 1
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gossamer.errors import UsageError


@dataclass(frozen=True, slots=True)
class WeightedText:
    """A text as it was given: what it is, and its weight if it has one."""

    text: str | Path
    weight: float | None = None

    def __str__(self) -> str:
        return f"{self.text}" if self.weight is None else f"{self.text}:{self.weight:g}"


def weighted(text: str | Path) -> WeightedText:
    """Take TEXT:WEIGHT apart; a path that exists is a text as it stands."""
    name, colon, number = str(text).rpartition(":")
    if isinstance(text, Path) or not colon or not name or Path(text).exists():
        return WeightedText(text)
    try:
        weight = float(number)
    except ValueError:
        return WeightedText(text)
    if not 0 < weight < math.inf:
        raise UsageError(f"--text {text}: a weight above 0 was expected behind the colon.")
    return WeightedText(name, weight)


def all_weighted(texts: Sequence[str | Path]) -> list[WeightedText]:
    """Take them all apart; UsageError if some have a weight and others have none."""
    found = [weighted(text) for text in texts]
    without = [each for each in found if each.weight is None]
    if without and len(without) < len(found):
        raise UsageError(
            f"--text {without[0]}: has no weight, and others have one. Give all texts one (TEXT:0.5), or none."
        )
    return found


def shares(windows: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Return how many windows of each text are taken, of so many that are there."""
    total = sum(weights)
    most = min(there * total / weight for there, weight in zip(windows, weights, strict=True))
    counts = [max(1, round(most * weight / total)) for weight in weights]
    return [min(count, there) for count, there in zip(counts, windows, strict=True)]


def spread(count: int, there: int) -> list[int]:
    """Return the numbers of `count` windows out of `there`, evenly spread."""
    return [int((number + 0.5) * there / count) for number in range(count)]
