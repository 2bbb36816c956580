"""The verdict of a search: whether dense or sparse levels won, and by how much."""

from collections.abc import Iterable

from gossamer.frontier.budget import Budget
from gossamer.frontier.levels import is_low_rank, is_sparse
from gossamer.frontier.points import Point, PointFigures


def verdict(budget: Budget, points: Iterable[Point], chosen: Point) -> str:
    """Return it in a sentence; where the budget was missed, what is nearest."""
    if chosen.verified is None:
        return "Nothing was verified in the time that was given: the recipe is a prediction. Give more --minutes."
    result = f"{_figures(chosen.verified)}{_low_rank(chosen)}"
    if not chosen.within_budget:
        return f"{budget.text} was not reached. The nearest that was verified: {chosen.name}, {result}."
    num_sparse = sum(count for name, count in chosen.levels.items() if is_sparse(name))
    winner = f"a recipe with {num_sparse} of {sum(chosen.levels.values())} matrices sparse"
    loser = "dense levels only"
    if not chosen.sparse:
        winner, loser = "dense quantization", "sparse levels"
    others = [
        each.verified
        for each in points
        if each.verified and each.within_budget and each.sparse != chosen.sparse
    ]
    if not others:
        return f"{winner.capitalize()} wins with {result}; none with {loser} was verified within the budget."
    by_size = budget.key == "perplexity"
    rival = min(others, key=lambda each: each.size_bytes if by_size else each.perplexity)
    return f"{winner.capitalize()} wins with {result}; the best with {loser}: {_figures(rival)}."


def _figures(figures: PointFigures) -> str:
    return (
        f"{figures.size_bytes / 1e6:.1f} MB, perplexity {figures.perplexity:.2f} "
        f"({figures.perplexity_ratio - 1:+.1%})"
    )


def _low_rank(point: Point) -> str:
    """How many matrices have a low-rank part, in words; nothing where none has."""
    count = sum(number for name, number in point.levels.items() if is_low_rank(name))
    return f", {count} of {sum(point.levels.values())} matrices with a low-rank part" if count else ""
