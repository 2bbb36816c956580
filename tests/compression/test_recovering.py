"""Compressed and recovered in one go: the same as in two, whole or not at all, also after kills."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gossamer
from gossamer.checkpoint.manifest import read_manifest
from gossamer.checkpoint.source import open_model
from gossamer.compression.recovering import check_recovery, recovery_of
from gossamer.errors import DataError, UsageError
from gossamer.progress import silent
from gossamer.recipe.reader import parse_recipe
from gossamer.training.settings import TrainingSettings
from tests.conftest import RECIPE

GIVEN: dict[str, Any] = {"length": 32, "recover_steps": 4}
KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import gossamer
from gossamer.recipe.reader import parse_recipe
parent, recipe, text, out, what, done = sys.argv[1:]
def progress(told, reached, total):
    if told == what and reached == int(done):
        os.kill(os.getpid(), signal.SIGKILL)
gossamer.compress(
    parent, parse_recipe(recipe), text=text, out=out, length=32, recover_steps=4, resume=True, progress=progress
)
"""


class StoppedError(Exception):
    """Like a crash."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_one_go(parent: Path, text: Path, out: Path, **given: Any) -> dict[str, Any]:
    return gossamer.compress(
        parent, parse_recipe(RECIPE), out=out, text=str(text), **{**GIVEN, **given}
    ).manifest


@pytest.fixture(scope="module")
def in_two_steps(parent: Callable[[str], Path], text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `compress` and then `recover` write."""
    place = tmp_path_factory.mktemp("two-steps")
    gossamer.compress(parent("llama"), parse_recipe(RECIPE), out=place / "small", text=str(text), length=32)
    settings = TrainingSettings(length=32)
    gossamer.recover(
        place / "small", parent=parent("llama"), text=text, out=place / "out", steps=4, settings=settings
    )
    return place / "out"


def test_one_run_gives_what_two_give_and_the_history_of_both(
    parent: Callable[[str], Path], text: Path, tmp_path: Path, in_two_steps: Path
) -> None:
    manifest = in_one_go(parent("llama"), text, tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == names(in_two_steps)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (in_two_steps / name).read_bytes()
    assert manifest == read_manifest(tmp_path / "out")
    assert manifest["run"]["seconds"] > 0
    (record,) = manifest["recovery"]
    assert record["steps"] == 4
    assert record["parent"]["sha256"] == manifest["parent"]["sha256"]
    assert record["text"]["source"] == manifest["calibration"]["source"] == text.name
    assert in_one_go(parent("llama"), text, tmp_path / "out", overwrite=True)["recovery"][0]["steps"] == 4


@pytest.mark.parametrize(
    "kills",
    [
        [("blocks", 1, [".out.both"]), ("training, steps", 3, [".out.both", ".out.run"])],
        [("compressed; now it is recovered", 0, [".out.both"])],
    ],
)
def test_a_run_that_is_killed_in_either_half_goes_on_and_gives_the_same_bytes(
    kills: list[tuple[str, int, list[str]]],
    parent: Callable[[str], Path],
    text: Path,
    tmp_path: Path,
    in_two_steps: Path,
) -> None:
    for what, done, left in kills:
        given = [str(each) for each in (parent("llama"), RECIPE, text, tmp_path / "out", what, done)]
        code = subprocess.run([sys.executable, "-c", KILLED, *given], check=False).returncode
        assert code == -signal.SIGKILL
        assert names(tmp_path) == left
        with pytest.raises(UsageError, match=r"stages of a stopped run.*--resume"):
            in_one_go(parent("llama"), text, tmp_path / "out")
        with pytest.raises(UsageError, match="recover steps was 4 and is now 5"):
            in_one_go(parent("llama"), text, tmp_path / "out", recover_steps=5, resume=True)
    manifest = in_one_go(parent("llama"), text, tmp_path / "out", resume=True)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out/model.safetensors").read_bytes() == (
        in_two_steps / "model.safetensors"
    ).read_bytes()
    assert manifest["run"]["resumed"] == (kills[0][0] == "blocks")


def test_a_run_that_ends_before_anything_is_kept_leaves_nothing(
    parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    def stop(what: str, _done: int, _total: int) -> None:
        if what == "blocks":
            raise StoppedError

    with pytest.raises(StoppedError):
        in_one_go(parent("llama"), text, tmp_path / "out", progress=stop)
    assert names(tmp_path) == []


def test_what_an_error_of_the_second_half_leaves_is_the_first(
    parent: Callable[[str], Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise UsageError("no")

    with monkeypatch.context() as patched:
        patched.setattr("gossamer.compression.recovering.recover", refused)
        with pytest.raises(UsageError) as stopped:
            in_one_go(parent("llama"), text, tmp_path / "out")
    assert "1 of 2 stages" in stopped.value.__notes__[0]
    assert gossamer.inspect(tmp_path / ".out.both/small").kind == "gossamer"
    monkeypatch.delattr("gossamer.compression.compress.compress_model")  # it is not compressed again
    assert in_one_go(parent("llama"), text, tmp_path / "out", resume=True)["recovery"]


def test_what_cannot_be_recovered_is_refused_before_it_is_compressed(
    parent: Callable[[str], Path],
    compressed: Callable[[str], Any],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("gossamer.compression.compress.compress_model")
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    before = names(tmp_path)
    for error, words, given in (
        (UsageError, "is an encoder-decoder", {"model": parent("t5")}),
        (UsageError, "text to learn from", {"text": None}),
        (UsageError, "--recover-steps 0", {"recover_steps": 0}),
        (UsageError, "--recover-minutes or --recover-steps", {"recover_minutes": 1.0}),
        (UsageError, "--recover-minutes -1", {"recover_steps": None, "recover_minutes": -1.0}),
        (DataError, "one window needs 32 tokens", {"text": str(short)}),
    ):
        whole: dict[str, Any] = {
            "model": parent("llama"), "recipe": parse_recipe(RECIPE), "text": str(text), "out": tmp_path / "out",
            **GIVEN, **given,
        }  # fmt: skip
        with pytest.raises(error, match=words):
            gossamer.compress(**whole)
        assert names(tmp_path) == before, words


def test_what_another_run_has_kept_is_refused_before_it_is_compressed(
    parent: Callable[[str], Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(what: str, done: int, _total: int) -> None:
        if what == "blocks" and done == 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        in_one_go(parent("llama"), text, tmp_path / "out", recover_steps=None, progress=stop)
    assert names(tmp_path) == [".out.run"]
    monkeypatch.delattr("gossamer.compression.compress.compress_model")
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"1 of 2 blocks|1 of 2 steps"):
            in_one_go(parent("llama"), text, tmp_path / "out", resume=resume)
        assert names(tmp_path) == [".out.run"]


def test_several_processes_are_refused(parent: Callable[[str], Path], text: Path) -> None:
    recovery = recovery_of(None, 1, str(text), 32, 0)
    assert recovery is not None

    class Two:
        count = 2

    with pytest.raises(UsageError, match="without torchrun"):
        check_recovery(open_model(parent("llama")), recovery, Two(), silent)  # type: ignore[arg-type]
