"""Rounds of measurements: each is a list of commands in turn, and is taken again until nothing disturbed it.

A command is a process of its own: of `benchmarks.ours`, or a tool of llama.cpp. All get the priority of this process.
While one runs, /proc/stat tells how much of the time other processes and other virtual machines took; where that was
too much (`gossamer.evaluation.speed.surroundings`: 5 % and 2 % of all cores), the whole round is taken again, because
its commands are compared with each other. What is not compared does not count: the probe of the memory's bandwidth,
which takes fresh pages, and so the time in which a virtual machine gets them from its host. A round runs as
`python -m benchmarks.rounds`, commands on stdin and answers on stdout as JSON, so that a program that keeps the machine
quiet can be put before it (`through`).
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gossamer.errors import RunError
from gossamer.evaluation.speed.surroundings import business, noise
from gossamer.files import write_json

MOST_REPEATS = 12


@dataclass(frozen=True, slots=True)
class Visit:
    """One command of a round."""

    name: str
    command: tuple[str, ...]
    parse: Callable[[str], dict[str, float]]
    """Figures out of what the command wrote to stdout."""
    environment: tuple[tuple[str, str], ...] = ()
    """Set beside what this process has."""
    compared: bool = True
    """Whether the round is taken again when this command was disturbed."""


Figures = dict[str, dict[str, float]]
"""Of a round: figures by name."""


def quiet_round(visits: Sequence[Visit], through: str, say: Callable[[str], None]) -> tuple[Figures, int]:
    """Return the figures of a round that nothing disturbed, and how many were thrown away before it.

    Raises RunError if a command fails, or if MOST_REPEATS rounds were disturbed.
    """
    for repeats in range(MOST_REPEATS):
        answers = answers_of(visits, through)
        noisy = [
            visit.name
            for visit, answer in zip(visits, answers, strict=True)
            if answer["noisy"] and visit.compared
        ]
        if not noisy:
            figures: Figures = {}
            for visit, answer in zip(visits, answers, strict=True):
                figures.setdefault(visit.name, {}).update(visit.parse(answer["output"]))
            return figures, repeats
        say(f"disturbed while {', '.join(dict.fromkeys(noisy))} ran: the round is taken again")
    raise RunError(f"{MOST_REPEATS} rounds were all disturbed by other processes. Leave the machine alone.")


def answers_of(visits: Sequence[Visit], through: str) -> list[dict]:
    """Run the commands of a round in a process of its own, behind the words of `through`."""
    command = [*shlex.split(through), sys.executable, "-m", "benchmarks.rounds"]
    asked = json.dumps([[visit.name, visit.command, dict(visit.environment)] for visit in visits])
    done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RunError(f"{shlex.join(command)}: exit code {done.returncode}; its messages are above")
    answers: list[dict] = json.loads(done.stdout)
    return answers


def run_watched(name: str, command: Sequence[str], environment: dict[str, str]) -> dict:
    """Run a command; return its output and what else went on meanwhile.

    Raises RunError if it fails.
    """
    before = business()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    after = business()
    if done.returncode:
        raise RunError(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return {"name": name, "output": done.stdout, **noise(before, after)}


def rounds_of(
    visits: Sequence[Visit], count: int, store: Path, key: str, through: str, say: Callable[[str], None]
) -> dict:
    """Return `rounds`, the figures of so many rounds, and `repeated`, how many more were thrown away.

    Models are visited from the front and from the back by turns. Every round is kept in `store`, a JSON file, under
    `key`, which has to name all that the figures depend on: a later call goes on from there.
    """
    kept: dict = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
    taken = kept.setdefault(key, {"rounds": [], "repeated": 0})
    while len(taken["rounds"]) < count:
        number = len(taken["rounds"])
        say(f"{key}: round {number + 1} of {count}")
        order = list(visits) if number % 2 else list(reversed(visits))
        figures, repeats = quiet_round(order, through, say)
        taken["rounds"].append(figures)
        taken["repeated"] += repeats
        write_json(store, kept)
    return {"rounds": taken["rounds"][:count], "repeated": taken["repeated"]}


if __name__ == "__main__":
    try:
        json.dump([run_watched(*asked) for asked in json.load(sys.stdin)], sys.stdout)
    except RunError as error:
        sys.exit(str(error))
