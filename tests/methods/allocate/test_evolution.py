"""Evolution: it keeps the budget, never gets worse, and finds what adding up losses cannot see."""

import random

from gossamer.methods.allocate.allocation import Choice, Option, total, within_cost
from gossamer.methods.allocate.evolution import evolve

PARTS = {
    f"part{number}": [Option(1.0, 1.0 + number / 10), Option(2.0, 0.5 + number / 20), Option(3.0, 0.1)]
    for number in range(6)
}
BUDGET = 11.0


def interacting(choice: Choice, _dear: bool) -> float:
    """A loss in which parts 4 and 5 do badly together where each alone does well."""
    together = 3.0 if choice["part4"] > 0 and choice["part5"] > 0 else 0.0
    return total(PARTS, choice).loss + together


def start() -> Choice:
    choice = within_cost(PARTS, BUDGET)
    assert choice is not None
    return choice


def test_evolution_keeps_the_budget_and_improves_on_what_adding_up_found() -> None:
    found = evolve(start(), PARTS, BUDGET, interacting, generations=20, seed=0)
    assert total(PARTS, found.choice).cost <= BUDGET
    assert found.loss == interacting(found.choice, True) < found.first_loss
    assert found.first_loss == interacting(start(), True)


def test_where_losses_add_up_there_is_little_to_find_and_nothing_gets_worse() -> None:
    def additive(choice: Choice, _dear: bool) -> float:
        return total(PARTS, choice).loss

    found = evolve(start(), PARTS, BUDGET, additive, generations=10, seed=1)
    assert found.loss <= additive(start(), True)


def test_the_same_seed_finds_the_same_and_the_clock_ends_it() -> None:
    first, second = (evolve(start(), PARTS, BUDGET, interacting, generations=5, seed=3) for _ in range(2))
    assert first == second
    stopped = evolve(start(), PARTS, BUDGET, interacting, generations=5, seed=3, go_on=lambda: False)
    assert stopped.choice == start()
    assert stopped.generations == 0


def test_dear_calls_are_few() -> None:
    calls = {True: 0, False: 0}

    def counted(choice: Choice, dear: bool) -> float:
        calls[dear] += 1
        return interacting(choice, dear)

    evolve(start(), PARTS, BUDGET, counted, generations=4, seed=0)
    assert calls[True] <= 1 + 4 * 2
    assert calls[False] <= 4 * 8


def test_a_start_beyond_the_budget_may_stay_as_dear_as_it_is() -> None:
    dear = dict.fromkeys(PARTS, 2)
    generator = random.Random(0)
    found = evolve(dear, PARTS, 1.0, lambda *_: generator.random(), generations=3, seed=0)
    assert total(PARTS, found.choice).cost <= total(PARTS, dear).cost
