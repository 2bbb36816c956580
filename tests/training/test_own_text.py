"""Text that the parent writes: drawn from its distribution, kept, read again by a run that goes on."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer
from gossamer.checkpoint.source import open_model
from gossamer.errors import DataError, UnsupportedModelError, UsageError
from gossamer.progress import silent
from gossamer.training import own_text, recover
from gossamer.training.own_text import TEMPERATURES, Desk, OwnText, Wanted, wanted_text, write_own_text
from gossamer.training.plan import plan
from gossamer.training.settings import TrainingSettings
from tests.conftest import read_tensors
from tests.models import save_tiny
from tests.training.conftest import Folders

QUICK = TrainingSettings(length=32, batch=4)
KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import gossamer
from gossamer.training.settings import TrainingSettings
def progress(what, done, total):
    if what == "training, steps" and done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
gossamer.recover(
    sys.argv[1], parent=sys.argv[2], text="self", out=sys.argv[3], steps=6,
    settings=TrainingSettings(length=32, batch=4), progress=progress,
)
"""


def recovered(folders: tuple[Path, Path], out: Path, **given: Any) -> dict[str, Any]:
    parent, small = folders
    whole: dict[str, Any] = {"text": "self", "steps": 6, "settings": QUICK, **given}
    return gossamer.recover(small, parent=parent, out=out, **whole).record


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]


# ---- what is written ----------------------------------------------------------------------------------------


def test_documents_come_at_each_temperature_in_turn_and_are_the_same_for_the_same_seed(
    folders: Folders, tmp_path: Path
) -> None:
    source = open_model(folders("float")[0])
    wanted = Wanted(length=32, tokens=1000, seconds=None, seed=3)
    told: list[tuple[int, int]] = []
    notes = write_own_text(source, wanted, tmp_path / "a", lambda _, done, total: told.append((done, total)))
    assert notes == []
    write_own_text(source, wanted, tmp_path / "b", silent)
    write_own_text(source, replace(wanted, seed=4), tmp_path / "c", silent)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    found = lines(tmp_path / "a")
    assert len(found) >= 1000 / 32
    counts = [sum(each["temperature"] == temperature for each in found) for temperature in TEMPERATURES]
    assert max(counts) - min(counts) <= 1
    assert len({each["text"] for each in found}) == len({each["seed"] for each in found}) == len(found)
    assert all(each["model"].startswith("tiny-llama ") for each in found)
    assert told[-1] == (1000, 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_tokens_are_drawn_from_the_parent_at_their_temperature(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model", initializer_range=0.2)
    source = open_model(tmp_path / "model")
    desk = Desk(source, Wanted(length=2, tokens=6000, seconds=None, seed=0), silent)
    counts = {temperature: torch.zeros(260) for temperature in TEMPERATURES}
    for document in own_text._by_engine(source, desk):
        desk.finished(document)
        assert document.opening == [257]
        assert len(document.ids) == 1
        counts[document.temperature][document.ids[0]] += 1
    with torch.inference_mode():
        logits_V = (
            gossamer.load(tmp_path / "model", dtype=torch.float32).model(torch.tensor([[257]])).logits[0, 0]
        )
    for temperature, count_V in counts.items():
        assert count_V.sum() >= 900
        far = {
            other: float((count_V / count_V.sum() - (logits_V / other).softmax(-1)).abs().sum())
            for other in TEMPERATURES
        }
        assert min(far, key=lambda other: far[other]) == temperature, far
        assert far[temperature] < 0.15


def test_a_document_ends_where_the_model_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny("llama", tmp_path / "model")
    source = open_model(tmp_path / "model")
    desk = Desk(source, Wanted(length=64, tokens=4000, seconds=None, seed=0), silent)
    assert desk.stops == [258]
    desk.stops = list(range(65, 91))
    total = 0
    for document in own_text._by_engine(source, desk):
        desk.finished(document)
        total += len(document.opening) + len(document.ids)
        assert not set(document.ids[:-1]) & set(desk.stops)
        assert document.ids[-1] in desk.stops or len(document.opening) + len(document.ids) == 64
    assert 4000 <= total < 4000 + 64


@pytest.mark.parametrize("start", [True, False])
def test_a_parent_that_the_engine_cannot_run_writes_with_torch_and_one_without_start_from_any_token(
    start: bool, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> str:
        raise UnsupportedModelError("no plan. Use --engine torch.")

    source = open_model(folders("float")[0])
    monkeypatch.setattr(own_text, "choose_engine", unsupported)
    if not start:
        monkeypatch.setattr(own_text, "start_tokens", lambda _: ())
        monkeypatch.setattr(own_text, "start_token", lambda *_: None)
    wanted = Wanted(length=12, tokens=60, seconds=None, seed=0)
    desk = Desk(source, wanted, silent)
    documents, notes = own_text._documents(source, desk)
    found = []
    for document in documents:
        desk.finished(document)
        found.append(document)
    assert notes == ["--text self: written with torch, one at a time, which is slow: no plan."]
    assert all(len(each.opening) + len(each.ids) <= 12 for each in found)
    assert len({each.opening[0] for each in found}) == (1 if start else len(found))
    assert len({tuple(each.ids) for each in found}) == len(found)


def test_how_much_is_written_follows_from_what_the_run_can_use() -> None:
    settings = TrainingSettings(batch=4, seed=7)
    assert wanted_text(OwnText(), settings, 32, 10, None) == Wanted(32, (40 + 8) * 32, None, 7)
    assert wanted_text(OwnText(), settings, 32, None, 10.0) == Wanted(32, None, 120.0, 7)
    assert wanted_text(OwnText(5000), settings, 32, None, 10.0) == Wanted(32, 5000, None, 7)
    with pytest.raises(UsageError, match="--self-tokens 63: at least two windows of 32 tokens"):
        wanted_text(OwnText(63), settings, 32, 10, None)


# ---- in a run -----------------------------------------------------------------------------------------------


def test_a_folder_learns_from_what_its_parent_wrote_and_the_text_can_be_kept_and_given_again(
    folders: Folders, text: Path, tmp_path: Path
) -> None:
    record = recovered(folders("float"), tmp_path / "out", steps=24, text_out=tmp_path / "own.jsonl")
    assert record["held_out_kl"]["after"] < record["held_out_kl"]["before"]
    assert record["text"]["source"] == "own.jsonl"
    asked = {"tokens_asked": (24 * 4 + 8) * 32, "seconds_asked": None, "temperatures": list(TEMPERATURES)}
    assert json.loads(json.dumps(record["text"]["self"])) == asked
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own.jsonl"]
    again = recovered(folders("float"), tmp_path / "again", steps=24, text=tmp_path / "own.jsonl")
    assert again["text"]["fingerprint"] == record["text"]["fingerprint"]
    one, two = read_tensors(tmp_path / "out"), read_tensors(tmp_path / "again")
    assert all(torch.equal(one[name], two[name]) for name in one)
    mixed = recovered(folders("float"), tmp_path / "mixed", text=[text, "self"], steps=1, self_tokens=3000)
    assert mixed["text"]["source"] == "spiders.txt, self.jsonl"


def test_minutes_are_shared_between_writing_and_learning(folders: Folders, tmp_path: Path) -> None:
    record = recovered(folders("float"), tmp_path / "out", steps=None, minutes=0.1)
    assert record["steps"] >= 1
    assert record["text"]["self"]["seconds_asked"] == pytest.approx(1.2)


def test_a_killed_run_reads_the_text_that_it_had_written_and_gives_the_same_bytes(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, small = folders("float")
    recovered((parent, small), tmp_path / "whole")
    given = [str(each) for each in (small, parent, tmp_path / "out")]
    environment = {**os.environ, "GOSSAMER_NUM_THREADS": os.environ.get("GOSSAMER_NUM_THREADS", "1")}
    killed = subprocess.run([sys.executable, "-c", KILLED, *given], check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert len(lines(tmp_path / ".out.run" / "self.jsonl")) > 1

    def never(*_: object) -> list[str]:
        raise AssertionError("the text was written again")

    monkeypatch.setattr(recover, "write_own_text", never)
    record = recovered((parent, small), tmp_path / "out", resume=True)
    assert (record["resumed"], record["steps"]) == (1, 6)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_plan_counts_what_would_be_written(folders: Folders, text: Path) -> None:
    parent, small = folders("float")
    base: dict[str, Any] = {"parent": parent, "settings": QUICK}
    alone = plan(small, text=["self"], steps=10, **base)
    assert alone.windows + alone.held_out_windows == 48
    assert any("the parent writes about 1,536 tokens" in note for note in alone.notes)
    only = plan(small, text=[text], steps=10, **base)
    both = plan(small, text=[text, "self"], steps=10, self_tokens=3200, **base)
    assert both.windows == only.windows + 100
    by_time = plan(small, text=["self"], minutes=10, **base)
    assert by_time.windows == by_time.held_out_windows == 0
    assert any("writes text for 120 s" in note for note in by_time.notes)


def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    folders: Folders, text: Path, tmp_path: Path
) -> None:
    save_tiny("llama", tmp_path / "other", seed=5)
    other = open_model(tmp_path / "other")
    write_own_text(other, Wanted(32, 100, None, 0), tmp_path / "others.jsonl", silent)
    before = sorted(path.name for path in tmp_path.iterdir())
    for error, words, given in (
        (UsageError, "--self-tokens 500: the parent writes no text", {"text": text, "self_tokens": 500}),
        (
            UsageError,
            "--text-out .*: the parent writes no text",
            {"text": text, "text_out": tmp_path / "new"},
        ),
        (UsageError, "exists already", {"text_out": tmp_path / "others.jsonl"}),
        (
            UsageError,
            "was not written by tiny-llama",
            {"text_out": tmp_path / "others.jsonl", "resume": True},
        ),
        (UsageError, "--self-tokens 10: at least two windows", {"self_tokens": 10}),
        (DataError, "no such file", {"text": [tmp_path / "none.txt", "self"]}),
    ):
        with pytest.raises(error, match=words):
            recovered(folders("float"), tmp_path / "out", **given)
        assert sorted(path.name for path in tmp_path.iterdir()) == before, words
