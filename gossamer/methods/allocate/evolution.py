"""Refinement of an allocation by evolution, after EvoPress (Sieberling et al. 2024, arXiv 2410.14649, algorithm 1).

Losses of single layers do not quite add up; here the loss of the whole choice is measured instead. Each generation
makes offspring of one parent by level switches: a few parts move up one option, others move down until the cost is
within the budget again. A cheap fitness (few tokens) picks the survivors, a dear one the best of them and the parent,
which stays unless it is beaten.

Cost: `OFFSPRING` cheap and `SURVIVORS` dear calls of the fitness for each generation.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gossamer.methods.allocate.allocation import Choice, Option, total

OFFSPRING, SURVIVORS, MOST_SWITCHES = 8, 2, 3
TRIES = 20
Fitness = Callable[[Choice, bool], float]
"""(choice, True for all tokens and False for few) -> loss of the whole model."""


@dataclass(frozen=True, slots=True)
class Evolved:
    """What evolution found."""

    choice: Choice
    loss: float
    """By the dear fitness."""
    first_loss: float
    """The same of the start."""
    generations: int


def evolve(
    start: Choice,
    parts: Mapping[str, Sequence[Option]],
    budget: float,
    fitness: Fitness,
    *,
    generations: int,
    seed: int,
    go_on: Callable[[], bool] = lambda: True,
) -> Evolved:
    """Return the best choice found that costs at most `budget` (or what the start costs, if that is more).

    `go_on` is asked before each generation. The same seed and fitness always give the same choice.
    """
    generator = random.Random(seed)
    ladders = {name: _ladder(options) for name, options in parts.items()}
    budget = max(budget, total(parts, start).cost)
    best, first = dict(start), fitness(start, True)
    loss, done = first, 0
    while done < generations and go_on():
        made = [_mutated(best, parts, ladders, budget, generator) for _ in range(OFFSPRING)]
        children = [child for child in made if child is not None]
        for child in sorted(children, key=lambda each: fitness(each, False))[:SURVIVORS]:
            measured = fitness(child, True)
            if measured < loss:
                best, loss = child, measured
        done += 1
    return Evolved(best, loss, first, done)


def _ladder(options: Sequence[Option]) -> list[int]:
    """The options that are not both dearer and worse than another, by rising cost."""
    ladder: list[int] = []
    for index in sorted(range(len(options)), key=lambda i: (options[i].cost, options[i].loss)):
        if not ladder or options[index].loss < options[ladder[-1]].loss:
            ladder.append(index)
    return ladder


def _mutated(
    parent: Choice,
    parts: Mapping[str, Sequence[Option]],
    ladders: Mapping[str, list[int]],
    budget: float,
    generator: random.Random,
) -> Choice | None:
    """The parent with a few parts one option up and others down, within the budget; None if none was found."""
    names = list(parts)
    for _ in range(TRIES):
        child = dict(parent)
        switches = min(generator.randint(1, MOST_SWITCHES), generator.randint(1, MOST_SWITCHES))
        raised = {name for name in generator.choices(names, k=switches) if _move(child, name, ladders, 1)}
        lowered = [name for name in names if name not in raised]
        generator.shuffle(lowered)
        while lowered and total(parts, child).cost > budget:
            _move(child, lowered.pop(), ladders, -1)
        if child != parent and total(parts, child).cost <= budget:
            return child
    return None


def _move(choice: Choice, name: str, ladders: Mapping[str, list[int]], by: int) -> bool:
    """Move a part along its ladder; False if there is no such rung."""
    ladder = ladders[name]
    at = ladder.index(choice[name]) + by if choice[name] in ladder else -1
    if not 0 <= at < len(ladder):
        return False
    choice[name] = ladder[at]
    return True
