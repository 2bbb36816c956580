"""Rates, judging and keeping, by steps and by the clock."""

import pytest

from gossamer.errors import UsageError
from gossamer.training.schedule import JUDGED, LAST_RATE, Schedule, check_effort


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_by_steps_the_rate_rises_and_falls_along_a_cosine_whatever_the_clock_says() -> None:
    clock = Clock()
    schedule = Schedule(100, None, clock)
    rates = []
    for step in range(100):
        clock.now += step
        rates.append(schedule.rate(step))
    assert rates[:7] == sorted(rates[:7])
    assert rates[8:] == sorted(rates[8:], reverse=True)
    assert rates[49] == pytest.approx(LAST_RATE + (1 - LAST_RATE) * 0.5, abs=0.02)
    assert rates[-1] < LAST_RATE + 0.01
    assert [schedule.over(step) for step in (0, 99, 100)] == [False, False, True]
    assert sum(schedule.judges(step) for step in range(1, 101)) == 5


def test_by_the_clock_what_comes_after_the_last_step_is_counted_in() -> None:
    clock = Clock()
    schedule = Schedule(None, 1.0, clock, begun=10.0, reserve=8.0)
    clock.now = 31.0
    assert schedule.fraction(5) == pytest.approx(0.5)
    schedule.longest_step = 4.0
    clock.now = 47.9
    assert not schedule.over(5)
    clock.now = 48.1
    assert schedule.over(5)
    assert not schedule.over(0)  # there is one step in any case


def test_by_the_clock_the_held_out_text_is_judged_once_for_each_part_of_the_time() -> None:
    clock = Clock()
    schedule = Schedule(None, 1.0, clock)
    times = []
    for second in range(60):
        clock.now = float(second)
        if schedule.judges(second):
            times.append(second)
    assert len(times) == JUDGED - 1
    assert times[0] == 10


def test_states_are_kept_so_that_it_takes_a_small_share_of_the_time() -> None:
    clock = Clock()
    schedule = Schedule(None, 60.0, clock)
    schedule.keeping, schedule.kept_at = 3.0, 100.0
    clock.now = 199.0
    assert not schedule.keeps(3)
    clock.now = 201.0
    assert schedule.keeps(3)


@pytest.mark.parametrize(
    ("steps", "minutes"), [(None, None), (3, 1.0), (None, -1.0), (None, float("nan")), (0, None)]
)
def test_an_effort_that_cannot_be_meant_is_refused(steps: int | None, minutes: float | None) -> None:
    with pytest.raises(UsageError):
        check_effort(steps, minutes)
