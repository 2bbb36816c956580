"""What a search tells: the chosen recipe, the front, a verdict in words; recipes, search.json and search.html."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gossamer.files import write_json
from gossamer.frontier.candidates import KEPT, Hunt
from gossamer.frontier.levels import Assignment, counts, is_low_rank, is_sparse
from gossamer.frontier.page import write_page_of

FRONT_POINTS = 12
RESULT, PAGE, CHOSEN, RECIPES = "search.json", "search.html", "chosen.yaml", "recipes"


def tell(hunt: Hunt) -> dict[str, Any]:
    """Write everything that was found, and return it."""
    verified = [_point(hunt, each) for each in hunt.measured()]
    predicted = [
        _predicted(hunt, number, each) for number, each in enumerate(hunt.problem.front(FRONT_POINTS), 1)
    ]
    chosen, assignment, reached = _chosen(hunt, verified)
    axis = "latency_ms" if hunt.budget.key == "latency" else "size_bytes"
    result = {
        "model": hunt.model,
        "budget": hunt.budget.text,
        "reached": reached,
        "verdict": _verdict(hunt, verified, chosen),
        "chosen": chosen,
        "dense": hunt.dense(),
        "front": pareto(verified, axis),
        "points": [*verified, *predicted],
        "factors": {"dense": hunt.problem.factors[0], "sparse": hunt.problem.factors[1]},
        "evolution": [
            {key: each[key] for key in ("kl_before", "kl_after", "generations", "seconds")}
            for each in hunt.state.section("evolved").values()
        ],
        "notes": hunt.notes,
        "files": _write_recipes(hunt, verified, predicted, assignment),
    }
    chosen.pop("assignment", None)
    chosen.setdefault("recipe", CHOSEN)
    write_json(hunt.out / RESULT, result)
    write_page_of(result, axis, hunt.budget, hunt.out / PAGE)
    return result


def _point(hunt: Hunt, record: dict[str, Any]) -> dict[str, Any]:
    figures = ("size_bytes", "weights_bytes", "latency_ms", "perplexity", "compress_seconds", "engine")
    return {
        "name": record["name"],
        "family": record["family"],
        "within_budget": hunt.allowed(record),
        "levels": counts(record["assignment"].values()),
        "sparse": _has_sparse(record["assignment"]),
        "predicted": record["predicted"],
        "verified": {**{key: record[key] for key in figures}, "perplexity_ratio": hunt.ratio(record)},
        "assignment": record["assignment"],
    }


def _predicted(hunt: Hunt, number: int, assignment: Assignment) -> dict[str, Any]:
    return {
        "name": f"predicted {number}",
        "family": "front",
        "within_budget": None,
        "levels": counts(assignment.values()),
        "sparse": _has_sparse(assignment),
        "predicted": hunt.predicted(assignment),
        "verified": None,
        "assignment": assignment,
    }


def _has_sparse(assignment: Assignment) -> bool:
    return any(is_sparse(option) for option in assignment.values())


def _chosen(hunt: Hunt, verified: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], Assignment, bool | None]:
    """The chosen point, its assignment, and whether it is within the budget (None: not verified)."""
    record = hunt.chosen()
    if record is None:
        assignment = hunt.problem.best("mixed") or hunt.problem.nearest()
        point = _predicted(hunt, 0, assignment) | {"name": f"best at {hunt.budget.text}, not verified"}
        return point, assignment, None
    point = next(each for each in verified if each["assignment"] == record["assignment"])
    return point, record["assignment"], hunt.allowed(record)


def _verdict(hunt: Hunt, verified: Sequence[dict[str, Any]], chosen: dict[str, Any]) -> str:
    """Whether dense or sparse levels won, and by how much; what is nearest where the budget was missed."""
    if chosen["verified"] is None:
        return "Nothing was verified in the time that was given: the recipe is a prediction. Give more --minutes."
    figures = chosen["verified"]
    told = (
        f"{figures['size_bytes'] / 1e6:.1f} MB, perplexity {figures['perplexity']:.2f} "
        f"({figures['perplexity_ratio'] - 1:+.1%}){_low_rank_told(chosen['levels'])}"
    )
    if not chosen["within_budget"]:
        return f"{hunt.budget.text} was not reached. The nearest that was verified: {chosen['name']}, {told}."
    others = [each for each in verified if each["within_budget"] and each["sparse"] != chosen["sparse"]]
    aim = "size_bytes" if hunt.budget.key == "perplexity" else "perplexity"
    rival = min(others, key=lambda each: each["verified"][aim], default=None)
    num_sparse = sum(count for name, count in chosen["levels"].items() if is_sparse(name))
    winner = f"a recipe with {num_sparse} of {sum(chosen['levels'].values())} matrices sparse"
    loser = "dense levels only"
    if not chosen["sparse"]:
        winner, loser = "dense quantization", "sparse levels"
    if rival is None:
        return f"{winner.capitalize()} wins with {told}; none with {loser} was verified within the budget."
    beside = rival["verified"]
    return (
        f"{winner.capitalize()} wins with {told}; the best with {loser}: {beside['size_bytes'] / 1e6:.1f} MB, "
        f"perplexity {beside['perplexity']:.2f} ({beside['perplexity_ratio'] - 1:+.1%})."
    )


def _low_rank_told(levels: Mapping[str, int]) -> str:
    """How many matrices have a low-rank part, in words; nothing where none has."""
    count = sum(number for name, number in levels.items() if is_low_rank(name))
    return f", {count} of {sum(levels.values())} matrices with a low-rank part" if count else ""


def pareto(points: Sequence[dict[str, Any]], axis: str) -> list[dict[str, Any]]:
    """Return the verified points that no other beats in both, by rising cost."""
    front: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda each: (each["verified"][axis], each["verified"]["perplexity"])):
        if not front or point["verified"]["perplexity"] < front[-1]["verified"]["perplexity"]:
            front.append(point)
    return front


def _write_recipes(
    hunt: Hunt, verified: Sequence[dict[str, Any]], predicted: Sequence[dict[str, Any]], chosen: Assignment
) -> dict[str, Any]:
    """Write a recipe for every point, and name each in it; the assignment itself stays in the recipe alone."""
    folder = hunt.out / RECIPES
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _write(hunt.out / CHOSEN, hunt.recipe(f"chosen for {hunt.budget.text}", chosen).to_yaml())
    for number, point in enumerate((*verified, *predicted), 1):
        path = folder / f"{number:02d}-{_slug(point['name'])}.yaml"
        _write(path, hunt.recipe(point["name"], point.pop("assignment")).to_yaml())
        point["recipe"] = f"{RECIPES}/{path.name}"
    kept = hunt.out / KEPT
    return {
        "recipe": str(hunt.out / CHOSEN),
        "result": str(hunt.out / RESULT),
        "page": str(hunt.out / PAGE),
        "model": str(kept) if kept.is_dir() else None,
    }


def _slug(name: str) -> str:
    words = "".join(character if character.isalnum() else " " for character in name).split()
    return "-".join(words)


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
