"""Evolution on the proxies: the loss of a whole assignment is measured, not added up from parts."""

import time
from collections.abc import Callable, Mapping

from torch import Tensor

from gossamer.frontier.levels import Assignment, level
from gossamer.frontier.problem import Problem
from gossamer.frontier.proxy import ProxyModel, scaled
from gossamer.frontier.record import Evolution
from gossamer.frontier.sensitivity import discount_of
from gossamer.frontier.state import State
from gossamer.methods.allocate.allocation import Choice
from gossamer.methods.allocate.evolution import Evolved, evolve
from gossamer.progress import Progress

GENERATIONS = 30
FEWEST_WINDOWS = 1
KEPT_WEIGHTS = 64
"""Proxies of changed matrices that are kept in memory."""


def refine(
    proxy: ProxyModel,
    problem: Problem,
    start: Assignment,
    family: str,
    state: State,
    *,
    seed: int,
    seconds: float,
    progress: Progress,
) -> Evolution:
    """Evolve an assignment at its own cost for at most so many seconds."""
    parts, names = problem.parts(family)
    began = time.monotonic()
    choice = {name: names[name].index(option) for name, option in start.items()}
    progress("evolution", 0, GENERATIONS)
    base = {name: _weight(proxy, name, option, state) for name, option in start.items()}
    done = 0

    def go_on() -> bool:
        nonlocal done
        progress("evolution", done, GENERATIONS)
        done += 1
        return time.monotonic() < began + seconds

    with proxy.replaced(base):
        fitness = _fitness(proxy, start, names, state)
        budget = sum(problem.cost_of(*pair) for pair in start.items())
        found: Evolved = evolve(
            choice, parts, budget, fitness, generations=GENERATIONS, seed=seed, go_on=go_on
        )
    progress("evolution", GENERATIONS, GENERATIONS)
    return Evolution(
        assignment=problem.assign(found.choice, names),
        kl_before=found.first_loss,
        kl_after=found.loss,
        generations=found.generations,
        seconds=time.monotonic() - began,
    )


def _fitness(
    proxy: ProxyModel, start: Assignment, names: Mapping[str, list[str]], state: State
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
                    kept[name, option] = _weight(proxy, name, option, state)
                changed[name] = kept[name, option]
        with proxy.replaced(changed):
            return proxy.kl(None if dear else FEWEST_WINDOWS)

    return fitness


def _weight(proxy: ProxyModel, name: str, option: str, state: State) -> Tensor:
    cheap_OI = proxy.cheap(name, level(option))
    return scaled(proxy.weight(name), cheap_OI, discount_of(option, state))
