"""Rounds: a disturbed one is taken again, a kept one is not."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rounds
from gossamer.errors import RunError
from gossamer.evaluation.speed import surroundings

STAT = "cpu  {user} 0 {system} {idle} 0 0 0 {stolen} 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n"
"""/proc/stat: hundredths of a second of all cores."""


def visit(name: str, text: str) -> rounds.Visit:
    command = (sys.executable, "-c", f"print({text!r})")
    return rounds.Visit(name, command, lambda output: {"decode": float(output)})


@pytest.fixture
def proc_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, int]]]:
    """The readings that the next looks at /proc/stat give, in hundredths of a second."""
    readings: list[dict[str, int]] = []
    real = Path.read_text

    def read(self: Path, *args: Any, **named: Any) -> str:
        if str(self) == "/proc/stat":
            return STAT.format(**readings.pop(0))
        return real(self, *args, **named)

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(surroundings.os, "sysconf", lambda _: 100)
    monkeypatch.setattr(surroundings.os, "times", lambda: (0.0, 0.0, 0.0, 0.0, 0.0))
    yield readings
    assert readings == []


BEFORE = {"user": 5000, "system": 100, "idle": 9000, "stolen": 0}


@pytest.mark.parametrize(
    ("after", "noisy"),
    [
        ({"user": 5004, "system": 100, "idle": 9096, "stolen": 0}, False),
        ({"user": 5004, "system": 102, "idle": 9094, "stolen": 0}, True),  # others took 6 %
        ({"user": 5000, "system": 100, "idle": 9097, "stolen": 3}, True),  # another virtual machine took 3 %
    ],
)
def test_a_command_is_disturbed_if_others_were_busy_while_it_ran(
    after: dict[str, int], noisy: bool, proc_stat: list[dict[str, int]]
) -> None:
    proc_stat += [BEFORE, after]
    answer = rounds.run_watched("one", [sys.executable, "-c", "print(7)"], {})
    assert (answer["noisy"], answer["output"]) == (noisy, "7\n")


def test_what_the_command_itself_takes_is_not_others_work(
    proc_stat: list[dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = iter([(0.0, 0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 3.0, 0.0, 0.0)])  # of ended children: 2 seconds
    monkeypatch.setattr(surroundings.os, "times", lambda: next(own))
    proc_stat += [BEFORE, {**BEFORE, "user": 5202, "idle": 9198}]
    assert rounds.run_watched("one", [sys.executable, "-c", ""], {})["others_share"] == pytest.approx(0.005)


def test_a_command_gets_its_environment_and_a_failing_one_is_an_error() -> None:
    program = "import os; print(os.environ['GOSSAMER_ISA'])"
    assert (
        rounds.run_watched("one", [sys.executable, "-c", program], {"GOSSAMER_ISA": "scalar"})["output"]
        == "scalar\n"
    )
    with pytest.raises(RunError, match=r"exit code 3\nso it is"):
        rounds.run_watched(
            "one", [sys.executable, "-c", "import sys; sys.stderr.write('so it is'); sys.exit(3)"], {}
        )


def test_a_round_runs_its_commands_in_a_process_behind_what_is_put_before_it() -> None:
    answers = rounds.answers_of([visit("one", "1"), visit("two", "2")], "nice -n 0")
    assert [(answer["name"], answer["output"]) for answer in answers] == [("one", "1\n"), ("two", "2\n")]
    with pytest.raises(RunError, match="exit code"):
        rounds.answers_of([replace(visit("one", "1"), command=("false",))], "")


def test_a_disturbed_round_is_taken_again_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy, told = iter([True, True, False]), []
    monkeypatch.setattr(
        rounds,
        "answers_of",
        lambda visits, _: [{"name": each.name, "output": "2", "noisy": next(noisy)} for each in visits],
    )
    figures, repeats = rounds.quiet_round([visit("one", "2")], "", told.append)
    assert (figures, repeats, len(told)) == ({"one": {"decode": 2.0}}, 2, 2)
    assert "one" in told[0]


def test_what_is_not_compared_does_not_throw_a_round_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "answers_of", lambda *_: [{"name": "one", "output": "2", "noisy": True}])
    figures, repeats = rounds.quiet_round([replace(visit("one", "2"), compared=False)], "", print)
    assert (figures, repeats) == ({"one": {"decode": 2.0}}, 0)


def test_a_machine_that_is_never_quiet_gives_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "answers_of", lambda *_: [{"name": "one", "output": "2", "noisy": True}])
    with pytest.raises(RunError, match="all disturbed"):
        rounds.quiet_round([visit("one", "2")], "", lambda _: None)


def test_rounds_that_were_measured_are_kept_and_the_order_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[list[str]] = []

    def taken(visits: list[rounds.Visit], _through: str, _say: object) -> tuple[rounds.Figures, int]:
        orders.append([each.name for each in visits])
        return {each.name: {"decode": float(len(orders))} for each in visits}, 1

    monkeypatch.setattr(rounds, "quiet_round", taken)
    store, visits = tmp_path / "rounds.json", [visit("a", "1"), visit("b", "1")]
    rounds.rounds_of(visits, 2, store, "avx2", "", lambda _: None)
    found = rounds.rounds_of(visits, 3, store, "avx2", "", lambda _: None)
    assert orders == [["b", "a"], ["a", "b"], ["b", "a"]]
    assert [each["a"]["decode"] for each in found["rounds"]] == [1, 2, 3]
    assert found["repeated"] == 3
    rounds.rounds_of(visits, 1, store, "another", "", lambda _: None)
    assert len(orders) == 4
    assert json.loads(store.read_text()).keys() == {"avx2", "another"}
