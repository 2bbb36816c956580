"""Evolution on the stand-ins: the loss of a whole assignment is measured, not added up from parts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from gossamer.frontier.levels import Assignment, level
from gossamer.frontier.problem import Problem
from gossamer.frontier.proxy import StandIn, scaled
from gossamer.frontier.sensitivity import discount_of
from gossamer.frontier.state import State
from gossamer.methods.allocate.allocation import Choice
from gossamer.methods.allocate.evolution import Evolved, evolve
from gossamer.progress import Progress

GENERATIONS = 30
FEWEST_WINDOWS = 1
KEPT_WEIGHTS = 64
"""Stand-ins of changed matrices that are kept in memory."""


@dataclass(frozen=True, slots=True)
class Refined:
    """An assignment after evolution, with the KL of the stand-ins before and after."""

    assignment: Assignment
    kl_before: float
    kl_after: float
    generations: int


def refine(
    standin: StandIn,
    problem: Problem,
    start: Assignment,
    family: str,
    state: State,
    *,
    seed: int,
    seconds: float,
    progress: Progress,
) -> Refined:
    """Evolve an assignment at its own cost for at most so many seconds."""
    parts, names = problem.parts(family)
    deadline = time.monotonic() + seconds
    choice = {name: names[name].index(option) for name, option in start.items()}
    progress("evolution", 0, GENERATIONS)
    base = {name: _weight(standin, name, option, state) for name, option in start.items()}
    done = 0

    def go_on() -> bool:
        nonlocal done
        progress("evolution", done, GENERATIONS)
        done += 1
        return time.monotonic() < deadline

    with standin.replaced(base):
        fitness = _fitness(standin, start, names, state)
        budget = sum(problem.cost_of(*pair) for pair in start.items())
        found: Evolved = evolve(
            choice, parts, budget, fitness, generations=GENERATIONS, seed=seed, go_on=go_on
        )
    progress("evolution", GENERATIONS, GENERATIONS)
    return Refined(problem.assign(found.choice, names), found.first_loss, found.loss, found.generations)


def _fitness(
    standin: StandIn, start: Assignment, names: Mapping[str, list[str]], state: State
) -> Callable[[Choice, bool], float]:
    kept: dict[tuple[str, str], Tensor] = {}

    def fitness(choice: Choice, dear: bool) -> float:
        changed: dict[str, Tensor] = {}
        for name, number in choice.items():
            option = names[name][number]
            if option != start[name]:
                if (name, option) not in kept:
                    if len(kept) >= KEPT_WEIGHTS:
                        kept.pop(next(iter(kept)))
                    kept[name, option] = _weight(standin, name, option, state)
                changed[name] = kept[name, option]
        with standin.replaced(changed):
            return standin.kl(None if dear else FEWEST_WINDOWS)

    return fitness


def _weight(standin: StandIn, name: str, option: str, state: State) -> Tensor:
    cheap_OI = standin.cheap(name, level(option))
    return scaled(standin.weight(name), cheap_OI, discount_of(option, state))
