"""A folder appears whole or not at all, whatever stops the run, and nothing of the user's is lost."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gossamer
from gossamer.checkpoint.read.folder import SINGLE, read_folder
from gossamer.checkpoint.write import side_files, writer
from gossamer.checkpoint.write.writer import FolderWriter, check_target
from gossamer.errors import RunError, UsageError
from gossamer.recipe.reader import parse_recipe
from tests.conftest import RECIPE, read_tensors
from tests.models import save_tiny, tiny_inputs

HALF = "steps: [{layers: '*', method: magnitude, sparsity: 0.5}]"


def some_tensors() -> dict[str, Tensor]:
    return {
        "a": torch.randn(3, 4),
        "b": torch.arange(5),
        "c": torch.tensor(1.5),
        "d": torch.tensor([True, False]),
    }


def write(out: Path, overwrite: bool = False) -> Path:
    with FolderWriter(out, overwrite) as target:
        target.add(some_tensors())
        target.add_json("config.json", {"model_type": "llama"})
        target.finish()
        return target.commit()


def model_folder(path: Path) -> Path:
    write(path)
    (path / "mine.txt").write_text("old")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- what is written --------------------------------------------------------------------------------------


def test_tensors_and_settings_come_back_as_they_were_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = some_tensors()
    torch.manual_seed(0)
    folder = write(tmp_path / "out")
    got = read_tensors(folder)
    assert set(got) == set(expected)
    assert all(
        torch.equal(got[name], expected[name]) and got[name].dtype == expected[name].dtype for name in got
    )
    assert names(tmp_path) == ["out"]
    assert names(folder) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_usual_permissions(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        folder = write(tmp_path / "out")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask, file.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask


def test_large_models_are_written_in_shards_that_load_again(
    parent, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gossamer.compress(parent("llama"), parse_recipe(RECIPE), out=tmp_path / "whole", text=str(text))
    monkeypatch.setattr(writer, "SHARD_BYTES", 20_000)
    parts = gossamer.compress(parent("llama"), parse_recipe(RECIPE), out=tmp_path / "parts", text=str(text))
    shards = [name for name in names(parts.folder) if name.endswith(".safetensors")]
    assert len(shards) >= 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((parts.folder / "model.safetensors.index.json").read_text())
    one, many = read_tensors(whole.folder), read_tensors(parts.folder)
    assert set(index["weight_map"]) == set(one) == set(many)
    assert all(torch.equal(one[name], many[name]) for name in one)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in one.values())
    inputs = tiny_inputs("llama")
    with torch.inference_mode():
        expected = gossamer.load(whole.folder).model(**inputs).logits
        assert torch.equal(gossamer.load(parts.folder).model(**inputs).logits, expected)


# ---- targets that are refused -----------------------------------------------------------------------------


def test_an_existing_folder_or_file_is_refused(tmp_path: Path) -> None:
    model_folder(tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    for name in ("out", "file"):
        with pytest.raises(UsageError, match="exists"):
            FolderWriter(tmp_path / name)
    assert (tmp_path / "out" / "mine.txt").read_text() == "old"


def test_overwrite_replaces_a_model_folder_whole(tmp_path: Path) -> None:
    out = model_folder(tmp_path / "out")
    write(out, overwrite=True)
    assert names(out) == ["config.json", "model.safetensors"]
    assert names(tmp_path) == ["out"]


def test_overwrite_fills_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", overwrite=True)
    assert names(tmp_path / "out") == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("files", [["letter.txt"], ["config.json"], ["model.safetensors"], [".git/config"]])
def test_overwrite_never_deletes_what_is_no_model_folder(files: list[str], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).write_text("{}")
    with pytest.raises(UsageError, match="will not delete"):
        check_target(tmp_path / "home", overwrite=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="will not delete"):
        check_target(tmp_path / "file", overwrite=True)
    assert all((tmp_path / "home" / name).exists() for name in files)


def test_overwrite_never_deletes_the_model_that_is_read(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "dense")
    before = names(tmp_path / "dense")
    for out in (tmp_path / "dense", tmp_path / "dense" / ".." / "dense"):
        with pytest.raises(UsageError, match="holds the model that is read"):
            gossamer.compress(tmp_path / "dense", parse_recipe(HALF), out=out, overwrite=True)
        with pytest.raises(UsageError, match="holds the model that is read"):
            gossamer.export(tmp_path / "dense", out, overwrite=True)
    assert names(tmp_path / "dense") == before


def test_a_target_without_a_parent_or_with_an_impossible_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        check_target(tmp_path / "none" / "out", overwrite=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        check_target(tmp_path / "file" / "out", overwrite=False)
    for name in ("x" * 300, "a\0b"):
        with pytest.raises((UsageError, RunError)):
            FolderWriter(tmp_path / name)
    assert names(tmp_path) == ["file"]


def test_a_link_keeps_pointing_at_the_folder_that_was_replaced(tmp_path: Path) -> None:
    model_folder(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == ["config.json", "model.safetensors"]
    assert names(tmp_path) == ["link", "real"]


# ---- whatever stops the run -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, MemoryError])
def test_nothing_is_left_after_an_error_or_an_interrupt(error: type[BaseException], tmp_path: Path) -> None:
    def stopped() -> None:
        with FolderWriter(tmp_path / "out") as target:
            target.add(some_tensors())
            target.finish()
            raise error

    with pytest.raises(error):
        stopped()
    assert names(tmp_path) == []


def test_an_interrupt_before_the_first_block_is_finished_leaves_nothing(parent, tmp_path: Path) -> None:
    def interrupt(what: str, _done: int, _total: int) -> None:
        if what == "blocks":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gossamer.compress(parent("llama"), parse_recipe(HALF), out=tmp_path / "out", progress=interrupt)
    assert names(tmp_path) == []


def test_the_old_folder_stays_if_the_new_one_cannot_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = model_folder(tmp_path / "out")
    real = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "model":
            raise OSError(errno.EIO, "broken")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(RunError, match="broken"), FolderWriter(out, overwrite=True) as target:
        target.add_json("config.json", {})
        target.commit()
    assert (out / "mine.txt").read_text() == "old"
    assert names(tmp_path) == ["out"]


RUN = """
import sys, time
import torch
torch.set_num_threads(1)
import gossamer
from gossamer.recipe.reader import parse_recipe
def slow(what, done, total):
    if what == "blocks" and done == 0:
        print("begun", flush=True)
        time.sleep(60)
gossamer.compress(sys.argv[1], parse_recipe(sys.argv[2]), out=sys.argv[3], overwrite=True, progress=slow)
"""


def test_a_run_killed_in_its_first_block_leaves_nothing_under_the_name_and_the_next_run_cleans_up(
    parent, tmp_path: Path
) -> None:
    out = tmp_path / "out[1]"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(parent("llama")), HALF, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    assert names(tmp_path) == [".out[1].run"]
    with pytest.raises(UsageError, match="another run is writing it"):
        gossamer.compress(parent("llama"), parse_recipe(HALF), out=out)
    with pytest.raises(UsageError, match="no such thing"), FolderWriter(out):
        raise UsageError("no such thing")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert names(tmp_path) == [".out[1].run"]
    gossamer.compress(parent("llama"), parse_recipe(HALF), out=out)
    assert names(tmp_path) == ["out[1]"]


def dead_process() -> int:
    """The number of a process that has ended."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    return dead.pid


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / f".out.partial-{dead_process()}" / "parts").mkdir(parents=True)
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_run_killed_while_it_replaced_a_folder_gives_the_old_one_back(tmp_path: Path) -> None:
    out = model_folder(tmp_path / "out")
    dead = dead_process()
    out.rename(tmp_path / f".out.replaced-{dead}")
    with pytest.raises(UsageError, match="exists"):
        FolderWriter(out)
    assert (out / "mine.txt").read_text() == "old"
    (tmp_path / f".out.replaced-{dead}").mkdir()
    write(out, overwrite=True)
    assert names(tmp_path) == ["out"]


# ---- disks ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "gossamer-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_leaves_no_folder_and_what_was_done_can_be_resumed(
    parent, small_disk: Path, tmp_path: Path
) -> None:
    whole = gossamer.compress(parent("llama"), parse_recipe(HALF), out=tmp_path / "whole")
    with pytest.raises(RunError, match="disk is full") as error:
        gossamer.compress(parent("llama"), parse_recipe(HALF), out=small_disk / "out")
    assert names(small_disk) == [".out.run"]
    assert "--resume" in error.value.__notes__[0]
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    gossamer.compress(parent("llama"), parse_recipe(HALF), out=small_disk / "out", resume=True)
    assert names(small_disk) == ["out"]
    assert (small_disk / "out" / SINGLE).read_bytes() == (whole.folder / SINGLE).read_bytes()


@pytest.mark.parametrize("place", ["save_file", "write_json", "copyfile", "mkdir"])
def test_a_full_disk_is_explained_wherever_it_is_met(
    place: str, parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = {"copyfile": side_files.shutil, "mkdir": Path}.get(place, writer)
    source = parent("llama")
    monkeypatch.setattr(owner, place, full)
    with pytest.raises(RunError, match="disk is full"):
        gossamer.compress(source, parse_recipe(HALF), out=tmp_path / "out")
    monkeypatch.undo()
    assert names(tmp_path) == ([".out.run"] if place in ("write_json", "copyfile") else [])


def test_a_failing_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(writer, "save_file", broken)
    with pytest.raises(RunError, match="could not be written"):
        write(tmp_path / "out")
    assert names(tmp_path) == []


def test_the_finished_folder_passes_the_checks_of_the_reader(tmp_path: Path) -> None:
    started = time.time()
    folder = read_folder(write(tmp_path / "out"))
    assert set(folder.tensors) == {"a", "b", "c", "d"}
    assert time.time() - started < 10
