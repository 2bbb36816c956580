"""Sharing out the time that is left for training."""

import math

import pytest

from gossamer.compression.time_budget import AROUND_BLOCKS, TimeBudget


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(clock: Clock, budget: TimeBudget, before: float, after: float, appetite: float = math.inf):
    """Work through all blocks, each with so much other work before and after its training; return what it got."""
    got = []
    for number in range(budget.num_blocks):
        with budget.block(number):
            clock.now += before
            with budget.training() as seconds:
                got.append(seconds)
                clock.now += min(max(seconds, 0.0), appetite)
            clock.now += after
    return got


def test_blocks_share_what_other_work_leaves_and_the_run_ends_in_time() -> None:
    clock = Clock()
    clock.now = 100.0  # spent before the blocks
    got = run(clock, TimeBudget(1000.0, 10, clock), before=20.0, after=10.0)
    whole = 1000.0 * (1 - AROUND_BLOCKS)
    assert clock.now == pytest.approx(whole)
    assert got == pytest.approx([(whole - 100 - 10 * 30) / 10] * 10)  # the first guess is right here


def test_what_one_block_does_not_use_goes_to_those_after_it() -> None:
    clock = Clock()
    budget = TimeBudget(1000.0, 4, clock)
    assert run(clock, budget, before=20.0, after=10.0, appetite=50.0)[3] > 600.0


def test_nothing_is_left_where_other_work_takes_it_all() -> None:
    clock = Clock()
    assert max(run(clock, TimeBudget(100.0, 10, clock), before=8.0, after=4.0)) <= 0.0


def test_without_a_budget_there_is_no_limit() -> None:
    clock = Clock()
    assert run(clock, TimeBudget(None, 2, clock), 1.0, 1.0, appetite=1.0) == [math.inf] * 2
