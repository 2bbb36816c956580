"""From one folder to the other: what is written, what is kept, what is refused, and going on after a kill."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.checkpoint import DefaultDeviceType

import gossamer
from gossamer.checkpoint.manifest import read_manifest
from gossamer.checkpoint.source import open_model
from gossamer.data.sources import read_documents
from gossamer.data.tokens import Windows, tokenize
from gossamer.errors import CheckpointError, DataError, UsageError
from gossamer.evaluation.quality.divergence import compare
from gossamer.training import loop
from gossamer.training.enrol import enrol
from gossamer.training.recover import Recovered
from gossamer.training.settings import TrainingSettings
from gossamer.training.text import read_text
from tests.conftest import read_packed, read_tensors
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
    if what == "training, steps" and done == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
settings = TrainingSettings(length=32, batch=4, train=sys.argv[6])
gossamer.recover(
    sys.argv[1], parent=sys.argv[2], text=sys.argv[3], out=sys.argv[4], steps=6, settings=settings, progress=progress
)
"""


def recovered(folders: tuple[Path, Path], text: Path, out: Path, **given: Any) -> Recovered:
    parent, small = folders
    return gossamer.recover(
        small, parent=parent, text=text, out=out, **{"steps": 6, "settings": QUICK, **given}
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- what is written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float", "half int4", "low rank int4", "8:16", "int4 asymmetric"])
def test_the_folder_comes_closer_to_its_parent_in_the_same_forms_bytes_and_zeros(
    form: str, folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders(form)
    settings = replace(QUICK, learning_rate=5e-4, batch=8)
    result = recovered((parent, small), text, tmp_path / "out", steps=24, settings=settings)
    assert result.record["held_out_kl"]["after"] < result.record["held_out_kl"]["before"]
    old, new = read_tensors(small), read_tensors(tmp_path / "out")
    assert {name: (each.dtype, each.shape) for name, each in old.items()} == {
        name: (each.dtype, each.shape) for name, each in new.items()
    }
    manifest = read_manifest(tmp_path / "out")
    assert manifest["tensors"] == read_manifest(small)["tensors"]
    before, after = read_packed(small, manifest), read_packed(tmp_path / "out", manifest)
    for name, packed in after.items():
        assert torch.equal(packed.mask(), before[name].mask())
        assert not packed.unpack()[~packed.mask()].any()
    assert sum(each.nbytes for each in new.values()) == sum(each.nbytes for each in old.values())


def test_what_was_judged_in_training_is_what_evaluate_says_of_the_folder(
    folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders("half int4")
    result = recovered((parent, small), text, tmp_path / "out")
    source = open_model(small)
    words = read_text(source, [text], 32, 0, lambda *_: None)
    stream = tokenize(read_documents(text), source.tokenizer(), "text")  # type: ignore[arg-type]
    assert torch.equal(words.ids_NL[0], stream.ids_T[:32])
    ids_NL = words.ids_NL[list(words.held_out)]
    cut = Windows(ids_NL, torch.ones_like(ids_NL), 32, "held out")
    dense = gossamer.load(parent, dtype=torch.float32).model
    for folder, when in ((small, "before"), (tmp_path / "out", "after")):
        figures = compare(gossamer.load(folder).model, dense, cut)
        assert result.record["held_out_kl"][when] == pytest.approx(figures.kl_mean, rel=1e-4)
        assert result.record["held_out_perplexity"][when] == pytest.approx(figures.model.perplexity, rel=1e-4)


def test_the_manifest_tells_what_was_done_first_and_then(
    folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders("half int4")
    recovered((parent, small), text, tmp_path / "once")
    recovered((parent, tmp_path / "once"), text, tmp_path / "twice", settings=replace(QUICK, train="norms"))
    before, manifest = read_manifest(small), read_manifest(tmp_path / "twice")
    for key in ("recipe", "calibration", "parent", "layers", "run"):
        assert manifest[key] == before[key]
    first, second = manifest["recovery"]
    assert (first["settings"]["train"], second["settings"]["train"]) == ("all", "norms")
    assert first["held_out_kl"]["after"] == pytest.approx(second["held_out_kl"]["before"], rel=1e-5)
    assert first["tokens"] == 6 * 4 * 32
    assert [point["step"] for point in first["curve"]] == [0, 1, 2, 3, 4, 5, 6]
    assert first["text"]["source"] == "spiders.txt"
    assert first["parent"]["sha256"] == before["parent"]["sha256"]
    assert manifest["size"]["total_bytes"] > 0


@pytest.mark.parametrize("train", ["lora", "norms"])
def test_the_cheaper_ways_help_too_and_change_what_they_should(
    train: str, folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders("float")
    settings = replace(QUICK, train=train, learning_rate=3e-3, rank=4, batch=8)
    result = recovered((parent, small), text, tmp_path / "out", steps=24, settings=settings)
    assert result.record["held_out_kl"]["after"] < result.record["held_out_kl"]["before"]
    old, new = read_tensors(small), read_tensors(tmp_path / "out")
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    matrices = {name for name in changed if "proj" in name}
    assert bool(matrices) == (train == "lora")
    assert any("norm" in name for name in changed)


def test_a_merged_adapter_is_the_masked_product_exactly(folders: Folders, text: Path, tmp_path: Path) -> None:
    _, small = folders("float")
    student = enrol(open_model(small), "lora", embeddings=False, rank=4, seed=0)
    for name, weight in student.weights():
        assert weight.adapter is not None
        with torch.no_grad():
            weight.adapter.left_OR.normal_(0, 0.1)
        before_OI = weight.working_OI.clone()
        product_OI = weight.adapter.left_OR.detach() @ weight.adapter.right_RI.detach()
        weight.refresh()
        wanted_OI = torch.where(before_OI != 0, before_OI + product_OI, 0).bfloat16().float()
        assert torch.equal(weight.working_OI != 0, before_OI != 0), name
        torch.testing.assert_close(weight.working_OI, wanted_OI, rtol=2**-7, atol=1e-6)
    for name, tensor in student.tensors().items():
        assert tensor.shape == read_tensors(small)[name].shape


def test_a_dense_folder_is_trained_and_stays_one(folders: Folders, text: Path, tmp_path: Path) -> None:
    parent, small = folders("float")
    gossamer.export(small, tmp_path / "pruned", dtype="bfloat16")
    settings = replace(QUICK, learning_rate=1e-3)
    result = recovered((parent, tmp_path / "pruned"), text, tmp_path / "out", settings=settings)
    assert any("zeros of 14 matrices stay zero" in note for note in result.record["notes"])
    old, new = read_tensors(tmp_path / "pruned"), read_tensors(tmp_path / "out")
    assert set(old) == set(new)
    for name, tensor in new.items():
        assert tensor.dtype == torch.bfloat16
        if "proj" in name:
            assert not tensor[old[name] == 0].any()
            assert not torch.equal(tensor, old[name])
    assert json.loads((tmp_path / "out" / "recovery.json").read_text())["steps"] == 6
    assert gossamer.inspect(tmp_path / "out").kind == "safetensors"


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gemma3"])
def test_other_families_are_trained_with_all_that_they_have(
    kind: str, folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders("half int4", kind)
    settings = replace(QUICK, embeddings=True, learning_rate=1e-2)
    monotonous = recovered((parent, small), text, tmp_path / "out", steps=1, settings=settings)
    assert monotonous.record["reload_max_difference"] < 1e-4
    dense = recovered((parent, parent), text, tmp_path / "dense", steps=1, settings=settings)
    assert dense.record["reload_max_difference"] < 1e-4
    assert set(read_tensors(tmp_path / "dense")) == set(read_tensors(parent))


def test_all_parts_of_the_objective_can_be_asked_for(
    folders: Folders, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tests/away.py may have registered its device, which torch would then ask about mixed precision
    monkeypatch.setattr(DefaultDeviceType, "_default_device_type", "cuda")
    settings = replace(QUICK, temperature=2.0, labels=0.5, hidden=1.0, checkpointing=True, embeddings=True)
    result = recovered(folders("half int4", "qwen2"), text, tmp_path / "out", settings=settings)
    assert result.record["held_out_kl"]["after"] <= result.record["held_out_kl"]["before"]


def test_a_quicker_teacher_teaches_too(folders: Folders, text: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, teacher_engine="native")
    record = recovered(folders("half int4"), text, tmp_path / "out", settings=settings).record
    assert record["teacher"]["engine"] == "native, int8 activations"
    assert record["held_out_kl"]["after"] < record["held_out_kl"]["before"]
    with pytest.raises(UsageError, match="--hidden: the native engine"):
        replace(settings, hidden=1.0)


# ---- the loop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("train", "step"), [("all", 4), ("lora", 3)])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    train: str, step: int, folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders("half int4")
    settings = replace(QUICK, train=train)
    whole = recovered((parent, small), text, tmp_path / "whole", settings=settings)
    given = [str(each) for each in (small, parent, text, tmp_path / "out", step, train)]
    assert subprocess.run([sys.executable, "-c", KILLED, *given], check=False).returncode == -signal.SIGKILL
    assert names(tmp_path) == [".out.run", "whole"]
    with pytest.raises(UsageError, match=rf"{step - 1} of 6 steps of a stopped run.*--resume"):
        recovered((parent, small), text, tmp_path / "out", settings=settings)
    with pytest.raises(UsageError, match=r"learning_rate was None and is now 0\.1"):
        other = replace(settings, learning_rate=0.1)
        recovered((parent, small), text, tmp_path / "out", settings=other, resume=True)
    result = recovered((parent, small), text, tmp_path / "out", settings=settings, resume=True)
    assert result.record["resumed"] == 1
    assert names(tmp_path) == ["out", "whole"]
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for key in ("tokens", "held_out_kl", "best_step", "steps"):
        assert result.record[key] == whole.record[key]
    losses = [[(point["loss"], point["kl"]) for point in each.record["curve"]] for each in (result, whole)]
    assert losses[0] == losses[1]


def test_a_loss_that_is_nan_is_undone_and_told(
    folders: Folders, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = loop.loss_of

    def broken(*arguments: Any) -> Any:
        calls.append(1)
        loss = real(*arguments)
        return replace(loss, total=loss.total * float("nan")) if len(calls) == 4 else loss

    monkeypatch.setattr(loop, "loss_of", broken)
    told: list[str] = []
    result = recovered(
        folders("float"), text, tmp_path / "out", progress=lambda what, _done, _total: told.append(what)
    )
    assert result.record["undone"] == 1
    assert any("not finite; back to step 3, at half the rate" in note for note in result.record["notes"])
    assert any("not finite" in line for line in told)
    assert result.record["steps"] == 6
    assert all(torch.isfinite(each).all() for each in read_tensors(tmp_path / "out").values())


def test_training_that_only_gives_nan_is_given_up_and_the_best_is_written(
    folders: Folders, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.loss_of
    monkeypatch.setattr(
        loop, "loss_of", lambda *given: replace(real(*given), total=real(*given).total * float("inf"))
    )
    parent, small = folders("float")
    result = recovered((parent, small), text, tmp_path / "out")
    assert any("given up" in note for note in result.record["notes"])
    old, new = load_file(small / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_the_best_state_is_what_is_written(folders: Folders, text: Path, tmp_path: Path) -> None:
    parent, small = folders("half int4")
    result = recovered((parent, small), text, tmp_path / "out", settings=replace(QUICK, learning_rate=0.5))
    assert result.record["best_step"] == 0
    assert any("training did not help" in note for note in result.record["notes"])
    old, new = read_packed(small, read_manifest(small)), read_packed(tmp_path / "out", read_manifest(small))
    assert all(torch.equal(old[name].unpack(), new[name].unpack()) for name in old)


def test_minutes_are_kept_to(folders: Folders, text: Path, tmp_path: Path) -> None:
    began = time.process_time()
    result = recovered(folders("float"), text, tmp_path / "out", steps=None, minutes=0.15)
    assert result.record["steps"] >= 1
    assert result.record["minutes_given"] == 0.15
    assert time.process_time() - began < 2 * 9 + 5


def test_moments_exist_for_kept_weights_only(folders: Folders, text: Path, tmp_path: Path) -> None:
    small_memory = recovered(folders("float"), text, tmp_path / "half", steps=1).record
    parent, _ = folders("float")
    dense_memory = recovered((parent, parent), text, tmp_path / "dense", steps=1).record
    assert small_memory["removed_weights"] == pytest.approx(small_memory["kept_weights"], rel=0.01)
    assert small_memory["optimizer_bytes"] <= 0.55 * dense_memory["optimizer_bytes"]


# ---- what is refused --------------------------------------------------------------------------------------------


def test_what_cannot_be_meant_is_refused_and_nothing_is_left(
    folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders("float")
    save_tiny("llama", tmp_path / "other", seed=7)
    save_tiny("t5", tmp_path / "both")
    (tmp_path / "short.txt").write_text("Too short.")
    (tmp_path / "exists").mkdir()
    (tmp_path / "exists" / "a").touch()
    before = names(tmp_path)
    out = tmp_path / "out"
    for error, words, given in (
        (UsageError, "was made of another model", {"parent": tmp_path / "other"}),
        (UsageError, "dense parent was expected", {"parent": small}),
        (CheckpointError, "no such path", {"parent": tmp_path / "none"}),
        (DataError, "one window needs 32 tokens", {"text": tmp_path / "short.txt"}),
        (DataError, "no such file", {"text": tmp_path / "none.txt"}),
        (UsageError, "no text was given", {"text": []}),
        (UsageError, "--minutes 0: a positive number", {"minutes": 0.0, "steps": None}),
        (UsageError, "--steps 0", {"steps": 0}),
        (UsageError, "one of the two", {"steps": None}),
        (UsageError, "one of the two", {"minutes": 1.0}),
        (UsageError, "exists already", {"out": tmp_path / "exists"}),
        (UsageError, "256 tokens", {"settings": replace(QUICK, length=1000)}),
        (UsageError, "is an encoder-decoder", {"model": tmp_path / "both"}),
        (UsageError, "cannot be replaced", {"out": small, "overwrite": True}),
    ):
        whole: dict[str, Any] = {
            "model": small, "parent": parent, "text": text, "out": out, "steps": 2, "settings": QUICK, **given,
        }  # fmt: skip
        with pytest.raises(error, match=words):
            gossamer.recover(**whole)
        assert names(tmp_path) == before, words


@pytest.mark.parametrize(
    "given",
    [
        {"train": "some"}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"batch": 0}, {"rank": 0},
        {"temperature": 0.0}, {"labels": -1.0}, {"hidden": float("inf")}, {"teacher_engine": "other"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        TrainingSettings(**given)


def test_a_manifest_without_a_parent_is_refused(folders: Folders, text: Path, tmp_path: Path) -> None:
    parent, small = folders("float")
    copy = Path(shutil.copytree(small, tmp_path / "copy"))
    manifest = read_manifest(copy)
    del manifest["parent"]
    (copy / "gossamer.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="does not say which parent"):
        recovered((parent, copy), text, tmp_path / "out")
