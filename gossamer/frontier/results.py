"""The results of a search: the chosen recipe, the front, a verdict; recipes, search.json and search.html."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gossamer.files import write_json, write_text
from gossamer.frontier.budget import Budget
from gossamer.frontier.findings import Findings
from gossamer.frontier.job import Job
from gossamer.frontier.measure import predict
from gossamer.frontier.points import Point, pareto, predicted_point, verified_point
from gossamer.frontier.problem import Problem
from gossamer.frontier.record import DenseFigures, Evolution, from_dict
from gossamer.frontier.verdict import verdict
from gossamer.report.search_page import SearchedRecipe, SearchPage, write_search_page

FRONT_POINTS = 12
RESULT, PAGE, CHOSEN, RECIPES = "search.json", "search.html", "chosen.yaml", "recipes"
KEPT = "model"
"""Folder of the best model, where it is kept."""


@dataclass(frozen=True, slots=True)
class Factors:
    """Measured over predicted losses."""

    dense: float
    sparse: float


@dataclass(frozen=True, slots=True)
class Files:
    """What a search wrote."""

    recipe: str
    result: str
    page: str
    model: str | None


@dataclass(frozen=True, slots=True)
class RecoveredFigures:
    """The recovered model, judged like the points of the search."""

    model: str
    perplexity: float
    perplexity_ratio: float
    """To the dense parent."""
    ratio_before: float
    """As the recipe made it."""
    tokens: int
    """Learnt from."""
    seconds: float
    """That recovery took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What `search` returns, and what is in search.json."""

    model: str
    budget: str
    reached: bool | None
    """Whether the chosen recipe is within the budget as measured; None: nothing was verified."""
    verdict: str
    chosen: Point
    dense: DenseFigures
    front: list[Point]
    """The verified points that no other beats in both."""
    points: list[Point]
    """All of them, verified or predicted."""
    factors: Factors
    evolution: list[Evolution]
    notes: list[str]
    files: Files
    recovered: RecoveredFigures | None = None
    """The chosen model once it was recovered; None where that was not asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints; the assignments themselves are in the recipes."""
        values = asdict(self)
        for each in (*values["evolution"], *values["points"], *values["front"], values["chosen"]):
            del each["assignment"]
        return values


def write_results(job: Job, problem: Problem, findings: Findings, notes: list[str]) -> SearchResult:
    """Write everything that was found, and return it."""
    shutil.rmtree(job.out / RECIPES, ignore_errors=True)
    (job.out / RECIPES).mkdir()
    points = [verified_point(each, findings) for each in findings.verified()]
    points += [
        predicted_point(f"predicted {number}", assignment, predict(problem, assignment))
        for number, assignment in enumerate(problem.front(FRONT_POINTS), 1)
    ]
    points = [_with_recipe(job, point, number) for number, point in enumerate(points, 1)]
    chosen = _chosen(job, problem, findings, points)
    write_text(job.out / CHOSEN, job.recipe(f"chosen for {job.budget.text}", chosen.assignment).to_yaml())
    axis = job.budget.axis
    result = SearchResult(
        model=job.model,
        budget=job.budget.text,
        reached=chosen.within_budget,
        verdict=verdict(job.budget, points, chosen),
        chosen=chosen,
        dense=findings.dense,
        front=pareto(points, axis),
        points=points,
        factors=Factors(*problem.factors),
        evolution=[from_dict(Evolution, each) for each in job.state.section("evolved").values()],
        notes=notes,
        files=_files(job.out),
    )
    write_json(job.out / RESULT, result.to_dict())
    write_search_page(_page(result, job.budget), job.out / PAGE)
    return result


def _chosen(job: Job, problem: Problem, findings: Findings, points: Sequence[Point]) -> Point:
    """The point of the chosen model; where none was verified, the best prediction."""
    model = findings.chosen()
    if model is not None:
        return next(
            each for each in points if each.verified and each.assignment == model.candidate.assignment
        )
    assignment = problem.best("mixed") or problem.nearest()
    name = f"best at {job.budget.text}, not verified"
    return replace(predicted_point(name, assignment, predict(problem, assignment)), recipe=CHOSEN)


def _with_recipe(job: Job, point: Point, number: int) -> Point:
    """Write the recipe of a point, and name it there."""
    path = Path(RECIPES) / f"{number:02d}-{_slug(point.name)}.yaml"
    write_text(job.out / path, job.recipe(point.name, point.assignment).to_yaml())
    return replace(point, recipe=path.as_posix())


def _slug(name: str) -> str:
    words = "".join(character if character.isalnum() else " " for character in name).split()
    return "-".join(words)


def _files(out: Path) -> Files:
    kept = out / KEPT
    return Files(
        recipe=str(out / CHOSEN),
        result=str(out / RESULT),
        page=str(out / PAGE),
        model=str(kept) if kept.is_dir() else None,
    )


def _page(result: SearchResult, budget: Budget) -> SearchPage:
    return SearchPage(
        model=result.model,
        budget=result.budget,
        verdict=result.verdict,
        notes=result.notes,
        dense_perplexity=result.dense.perplexity,
        perplexity_signature=result.dense.perplexity_signature,
        axis=budget.axis,
        limit=budget.limit,
        limited=budget.key,
        recipes=[
            SearchedRecipe(
                name=point.name,
                file=point.recipe,
                levels=", ".join(f"{count} {name}" for name, count in point.levels.items()),
                sparse=point.sparse,
                size_bytes=(point.verified or point.predicted).size_bytes,
                latency_ms=(point.verified or point.predicted).latency_ms,
                perplexity=point.verified.perplexity if point.verified else None,
                perplexity_ratio=point.verified.perplexity_ratio if point.verified else None,
                predicted_ratio=point.predicted.perplexity_ratio,
            )
            for point in result.points
        ],
    )
