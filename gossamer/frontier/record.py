"""What a search keeps about the models that it has measured: typed here, flat tables in state.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from gossamer.frontier.levels import Assignment


@dataclass(frozen=True, slots=True)
class Candidate:
    """An assignment that is worth verifying."""

    name: str
    family: str
    """mixed, dense, sparse, uniform, front or owl."""
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Predicted:
    """What is expected of an assignment."""

    size_bytes: float
    latency_ms: float | None
    """None unless the budget is one of latency."""
    perplexity_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseFigures:
    """The dense parent, by the protocol that candidates are measured by."""

    size_bytes: int
    perplexity: float
    perplexity_signature: str
    latency_ms: float | None
    """For one decoded token; None where the native engine cannot run it."""
    evaluate_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured on a compressed model."""

    size_bytes: int
    """Of the folder."""
    weights_bytes: int
    perplexity: float
    perplexity_signature: str
    engine: str
    latency_ms: float | None
    compress_seconds: float
    seconds: float
    """For compressing, evaluating and timing."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A candidate that was compressed and measured."""

    candidate: Candidate
    predicted: Predicted
    figures: Figures
    time_factor: float
    """How much longer that took than its parts should."""

    def to_dict(self) -> dict[str, Any]:
        """Return its table in state.json."""
        measured = asdict(self.figures) | {"time_factor": self.time_factor}
        return asdict(self.candidate) | {"predicted": asdict(self.predicted)} | measured


@dataclass(frozen=True, slots=True)
class Failed:
    """A candidate that could not be compressed or measured."""

    candidate: Candidate
    predicted: Predicted
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Return its table in state.json."""
        return asdict(self.candidate) | {"predicted": asdict(self.predicted), "error": self.error}


Record = Verified | Failed


@dataclass(frozen=True, slots=True)
class Evolution:
    """An assignment after evolution, with the KL of the proxies before and after."""

    assignment: Assignment
    kl_before: float
    kl_after: float
    generations: int
    seconds: float


T = TypeVar("T", Candidate, Predicted, DenseFigures, Figures, Evolution)


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return what `asdict` made a table of; other keys of the table are left alone. KeyError where one is missing."""
    return kind(**{each.name: values[each.name] for each in fields(kind)})


def record_from_dict(values: Mapping[str, Any]) -> Record:
    """Return what `to_dict` made a table of. KeyError where a key is missing."""
    candidate, predicted = from_dict(Candidate, values), from_dict(Predicted, values["predicted"])
    if "error" in values:
        return Failed(candidate, predicted, values["error"])
    return Verified(candidate, predicted, from_dict(Figures, values), values["time_factor"])
