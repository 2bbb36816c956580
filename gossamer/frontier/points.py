"""The points of a search: recipes with what was predicted of them and, where they were verified, measured."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gossamer.frontier.findings import Findings
from gossamer.frontier.levels import Assignment, counts, is_sparse
from gossamer.frontier.record import Predicted, Verified


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFigures:
    """What was measured on a model."""

    size_bytes: int
    """Of the folder."""
    weights_bytes: int
    latency_ms: float | None
    """For one decoded token; None where the native engine cannot run it."""
    perplexity: float
    compress_seconds: float
    engine: str
    perplexity_ratio: float
    """Over the dense model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One recipe."""

    name: str
    family: str
    within_budget: bool | None
    """As measured; None: not verified."""
    levels: dict[str, int]
    """How many matrices have each level, most first."""
    sparse: bool
    """A level prunes."""
    predicted: Predicted
    verified: PointFigures | None
    recipe: str = ""
    """Its file, from the folder of the search."""
    assignment: Assignment = field(repr=False)


def verified_point(model: Verified, findings: Findings) -> Point:
    """Return the point of a measured model; its recipe is not written yet."""
    figures, assignment = model.figures, model.candidate.assignment
    return Point(
        name=model.candidate.name,
        family=model.candidate.family,
        within_budget=findings.allows(model),
        levels=counts(assignment.values()),
        sparse=any(map(is_sparse, assignment.values())),
        predicted=model.predicted,
        verified=PointFigures(
            size_bytes=figures.size_bytes,
            weights_bytes=figures.weights_bytes,
            latency_ms=figures.latency_ms,
            perplexity=figures.perplexity,
            compress_seconds=figures.compress_seconds,
            engine=figures.engine,
            perplexity_ratio=findings.ratio(model),
        ),
        assignment=assignment,
    )


def predicted_point(name: str, assignment: Assignment, predicted: Predicted) -> Point:
    """Return the point of an assignment that was not verified; its recipe is not written yet."""
    return Point(
        name=name,
        family="front",
        within_budget=None,
        levels=counts(assignment.values()),
        sparse=any(map(is_sparse, assignment.values())),
        predicted=predicted,
        verified=None,
        assignment=assignment,
    )


def pareto(points: Iterable[Point], axis: str) -> list[Point]:
    """Return the verified points that no other beats in both perplexity and cost (size or latency), by rising cost."""
    measured = [
        (_cost(each.verified, axis), each.verified.perplexity, each) for each in points if each.verified
    ]
    front: list[Point] = []
    best = float("inf")
    for _, perplexity, point in sorted(measured, key=lambda each: each[:2]):
        if not front or perplexity < best:
            front.append(point)
            best = perplexity
    return front


def _cost(figures: PointFigures, axis: str) -> float:
    if axis == "size":
        return figures.size_bytes
    assert figures.latency_ms is not None  # a budget of latency is refused where there is none
    return figures.latency_ms
