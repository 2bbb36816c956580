"""Two processes that train together do what one does; they stop, fail and go on together."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer
from gossamer.checkpoint.manifest import read_manifest
from gossamer.training.settings import TrainingSettings
from tests.conftest import read_packed, read_tensors
from tests.training.conftest import Folders
from tests.training.together import torchrun

QUICK = TrainingSettings(length=32, batch=5, precision="float32")


def together(fault: str, folders: tuple[Path, Path], text: Path, out: Path) -> Any:
    parent, small = folders
    return torchrun("tests.training.together", "recover", fault, small, parent, text, out)


def figures(record: dict[str, Any], key: str) -> list[float]:
    return [point[key] for point in record["curve"] if point[key] is not None]


@pytest.mark.parametrize(("form", "steps"), [("float", 50), ("half int4", 50)])
def test_two_processes_learn_what_one_learns_and_send_the_kept_gradients_alone(
    form: str, steps: int, folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders(form)
    alone = gossamer.recover(
        small, parent=parent, text=text, out=tmp_path / "alone", steps=steps, settings=QUICK
    ).record
    given = (
        "recover",
        small,
        "--parent",
        parent,
        "--text",
        text,
        "--steps",
        steps,
        "--length",
        32,
        "--batch",
        5,
        "--precision",
        "float32",
    )
    result = torchrun("gossamer", *given, "--out", tmp_path / "both", "--json")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)  # printed once, by the first
    assert record["processes"] == 2
    assert len(re.findall("before training", result.stderr)) == 1
    assert record["tokens"] == alone["tokens"] == steps * 5 * 32
    for key in ("loss", "kl"):
        assert figures(record, key) == pytest.approx(figures(alone, key), abs=1e-4), key
    assert alone["all_reduce"] is None
    sent = record["all_reduce"]
    kept, removed = record["kept_weights"], record["removed_weights"]
    small_parts = sent["bytes_per_step"] / 4 - kept  # norms, scales, and a flag for each
    assert 0 < small_parts < 0.1 * kept
    assert sent["dense_bytes_per_step"] == sent["bytes_per_step"] + 4 * removed
    assert sent["share_of_dense"] == pytest.approx(
        (kept + small_parts) / (kept + removed + small_parts), rel=1e-6
    )
    manifest = read_manifest(tmp_path / "both")
    one, two = (read_packed(tmp_path / name, manifest) for name in ("alone", "both"))
    for name, packed in two.items():
        assert torch.equal(packed.mask(), one[name].mask())
        differ = (packed.unpack() - one[name].unpack()).abs() > 1e-5
        assert float(differ.float().mean()) < 0.01
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "both"]


def test_a_window_for_one_of_them_is_a_step_for_both_and_bf16_halves_the_bytes(
    folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders("float")
    settings = TrainingSettings(length=32, batch=1)
    alone = gossamer.recover(
        small, parent=parent, text=text, out=tmp_path / "alone", minutes=None, steps=12, settings=settings
    ).record
    given = ("recover", small, "--parent", parent, "--text", text, "--length", 32, "--batch", 1)
    result = torchrun("gossamer", *given, "--steps", 12, "--all-reduce", "bf16", "--out", tmp_path / "both")
    assert result.returncode == 0, result.stderr
    assert re.search(r"2 processes, in a step.*gradients \(bf16\)", " ".join(result.stdout.split()))
    (record,) = read_manifest(tmp_path / "both")["recovery"]
    assert figures(record, "loss") == pytest.approx(figures(alone, "loss"), abs=1e-3)
    assert record["all_reduce"]["bytes_per_step"] < 2.2 * record["kept_weights"]
    assert record["settings"]["all_reduce"] == "bf16"
    noted = gossamer.recover(
        small, parent=parent, text=text, out=tmp_path / "noted", steps=1,
        settings=TrainingSettings(length=32, batch=1, all_reduce="bf16"),
    ).record  # fmt: skip
    assert any("a single process sends nothing" in note for note in noted["notes"])


def test_the_first_writes_text_for_all_and_its_clock_stops_all(folders: Folders, tmp_path: Path) -> None:
    parent, small = folders("float")
    given = ("recover", small, "--parent", parent, "--text", "self", "--length", 32, "--minutes", 0.2)
    result = torchrun("gossamer", *given, "--out", tmp_path / "out", "--json")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["steps"] >= 1
    assert record["tokens"] == record["steps"] * 4 * 32


def test_a_nan_of_one_is_undone_by_both(folders: Folders, text: Path, tmp_path: Path) -> None:
    result = together("nan", folders("float"), text, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    (record,) = read_manifest(tmp_path / "out")["recovery"]
    assert (record["undone"], record["steps"]) == (1, 6)
    assert any("not finite; back to step 3, at half the rate" in note for note in record["notes"])
    assert all(torch.isfinite(each).all() for each in read_tensors(tmp_path / "out").values())


def test_all_are_killed_and_go_on_to_the_same_bytes(folders: Folders, text: Path, tmp_path: Path) -> None:
    whole = together("none", folders("half int4"), text, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert together("killed", folders("half int4"), text, tmp_path / "out").returncode != 0
    assert not (tmp_path / "out").exists()
    result = together("resume", folders("half int4"), text, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    (record,) = read_manifest(tmp_path / "out")["recovery"]
    assert (record["resumed"], record["processes"]) == (1, 2)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_one_that_dies_ends_the_other_and_what_was_reached_is_kept(
    folders: Folders, text: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    result = together("dies", folders("float"), text, tmp_path / "out")
    assert result.returncode != 0
    assert time.monotonic() - began < 600  # gloo itself would wait for half an hour
    assert re.search("another process of this run has ended|SIGKILL", result.stderr)
    assert json.loads((tmp_path / ".out.run" / "progress.json").read_text())["done"] == 3
    parent, small = folders("float")
    resumed = gossamer.recover(
        small, parent=parent, text=text, out=tmp_path / "out", steps=6, settings=QUICK, resume=True
    )
    assert any("processes 2 before, 1 after" in note for note in resumed.record["notes"])
    assert resumed.record["steps"] == 6
