"""A run that was killed goes on from its last finished block, and gives what it would have given."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer
from gossamer.checkpoint.write import writer
from gossamer.errors import UsageError
from gossamer.recipe.reader import parse_recipe
from tests.conftest import RECIPE, read_tensors
from tests.models import save_tiny

RECONSTRUCTED = """
calibration: {samples: 12, length: 32}
steps:
  - {layers: "*", method: sparsegpt, sparsity: 0.5}
  - {layers: "*", method: reconstruct, epochs: 1}
  - {layers: "*", method: gptq, bits: 4, group_size: 32}
  - {layers: [embeddings, head], method: rtn, bits: 8, group_size: 32}
"""
PUBLISHED = """
calibration: {samples: 4, length: 32, align: false}
steps:
  - {layers: "*", method: wanda, pattern: "2:4"}
"""
KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import gossamer
from gossamer.recipe.reader import parse_recipe
def progress(what, done, total):
    if what == sys.argv[5] and done == int(sys.argv[6]):
        os.kill(os.getpid(), signal.SIGKILL)
gossamer.compress(sys.argv[1], parse_recipe(sys.argv[2]), out=sys.argv[3], text=sys.argv[4] or None, progress=progress)
"""


class StoppedError(Exception):
    pass


def stopping(at: int) -> Callable[[str, int, int], None]:
    """A progress that stops the run when so many blocks are done."""

    def progress(what: str, done: int, _total: int) -> None:
        if what == "blocks" and done == at:
            raise StoppedError

    return progress


def killed(parent: Path, recipe: str, out: Path, text: Path | None, what: str, done: int) -> None:
    """Run until `what` has come to `done`, and kill the process there."""
    command = [sys.executable, "-c", KILLED, str(parent), recipe, str(out), str(text or ""), what, str(done)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def without_times(manifest: dict[str, Any]) -> dict[str, Any]:
    """What two runs have to agree on."""
    left = {key: value for key, value in manifest.items() if key not in ("created", "run", "size")}
    left["layers"] = [{**layer, "seconds": None} for layer in manifest["layers"]]
    left["size"] = {**manifest["size"], "total_bytes": None}  # gossamer.json holds the times
    return json.loads(json.dumps(left))


def same(one: Path, other: Path) -> None:
    """Two folders hold the same bytes, and manifests that differ in times only."""
    assert names(one) == names(other)
    for file in one.glob("*.safetensors"):
        assert file.read_bytes() == (other / file.name).read_bytes(), file.name
    first, second = (json.loads((folder / "gossamer.json").read_text()) for folder in (one, other))
    assert without_times(first) == without_times(second)


@pytest.mark.parametrize(
    ("kind", "recipe", "what", "done"),
    [
        ("llama", RECIPE, "blocks", 1),
        ("llama", RECONSTRUCTED, "reconstructing model.layers.1", 0),
        ("llama", RECIPE, "loading the result as a check", 0),
        ("qwen2", RECIPE, "blocks", 2),
        ("qwen2", PUBLISHED, "blocks", 1),
        ("gpt2", RECIPE, "blocks", 1),
        ("t5", RECIPE, "blocks", 3),
    ],
)
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    kind: str, recipe: str, what: str, done: int, parent, text: Path, tmp_path: Path
) -> None:
    gossamer.compress(parent(kind), parse_recipe(recipe), out=tmp_path / "whole", text=str(text))
    killed(parent(kind), recipe, tmp_path / "out", text, what, done)
    assert names(tmp_path) == [".out.run", "whole"]
    result = gossamer.compress(
        parent(kind), parse_recipe(recipe), out=tmp_path / "out", text=str(text), resume=True
    )
    assert result.manifest["run"]["resumed"] == 1
    assert names(tmp_path) == ["out", "whole"]
    same(tmp_path / "whole", tmp_path / "out")


def test_a_run_stopped_after_each_block_and_written_in_shards_gives_the_same_bytes(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 30_000)
    save_tiny("llama", tmp_path / "dense", num_hidden_layers=5)
    recipe = parse_recipe(RECIPE)
    whole = gossamer.compress(tmp_path / "dense", recipe, out=tmp_path / "whole", text=str(text))
    for block in range(1, 6):
        with pytest.raises(StoppedError) as stopped:
            gossamer.compress(
                tmp_path / "dense",
                recipe,
                out=tmp_path / "out",
                text=str(text),
                resume=True,
                progress=stopping(block),
            )
        assert f"{block} of 5 blocks" in stopped.value.__notes__[0]
        assert len(list((tmp_path / ".out.run").glob("state-*"))) == 1
    result = gossamer.compress(tmp_path / "dense", recipe, out=tmp_path / "out", text=str(text), resume=True)
    assert result.manifest["run"]["resumed"] == 5
    assert len(list(whole.folder.glob("*.safetensors"))) >= 3
    same(whole.folder, result.folder)


def test_a_text_that_the_model_wrote_is_not_written_again(
    parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe(PUBLISHED)
    whole = gossamer.compress(parent("llama"), recipe, out=tmp_path / "whole")
    with pytest.raises(StoppedError):
        gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", progress=stopping(1))
    monkeypatch.delattr("gossamer.compression.windows.self_samples")
    result = gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", resume=True)
    same(whole.folder, result.folder)


def test_a_stopped_run_is_explained_and_neither_touched_nor_replaced(
    parent, text: Path, tmp_path: Path
) -> None:
    recipe = parse_recipe(RECIPE)
    with pytest.raises(StoppedError):
        gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", text=str(text), progress=stopping(1))
    before = names(tmp_path / ".out.run")
    with pytest.raises(UsageError, match=r"1 of 2 blocks.*--resume to go on.*delete that folder"):
        gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", text=str(text))
    assert names(tmp_path / ".out.run") == before


def test_what_differs_from_the_stopped_run_is_named(parent, text: Path, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "other", seed=1)
    other_text = tmp_path / text.name
    other_text.write_text(text.read_text().replace("stone", "water"))
    given: dict[str, Any] = {
        "model": parent("llama"), "recipe": parse_recipe(RECIPE), "out": tmp_path / "out", "text": str(text),
    }  # fmt: skip
    with pytest.raises(StoppedError):
        gossamer.compress(**given, progress=stopping(1))
    before = names(tmp_path / ".out.run")
    for change, told in (
        ({"model": tmp_path / "other"}, "parent's sha256 was"),
        ({"recipe": parse_recipe(PUBLISHED)}, "steps was"),
        ({"seed": 3}, "seed was 0 and is now 3"),
        ({"length": 16}, "length was 32 and is now 16"),
        ({"layers": "*q_proj"}, r"layers was None and is now \*q_proj"),
        ({"text": None}, "text was spiders.txt and is now None"),
        ({"text": str(other_text)}, "calibration text .* fingerprint was"),
    ):
        with pytest.raises(UsageError, match=told):
            gossamer.compress(**{**given, **change, "resume": True})
        assert names(tmp_path / ".out.run") == before
    assert gossamer.compress(**given, resume=True).manifest["run"]["resumed"] == 1


def test_resuming_with_another_number_of_threads_is_noted(parent, text: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE)
    with pytest.raises(StoppedError):
        gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", text=str(text), progress=stopping(1))
    torch.set_num_threads(2)
    try:
        result = gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", text=str(text), resume=True)
    finally:
        torch.set_num_threads(1)
    assert any("threads 1 before, 2 after" in note for note in result.manifest["notes"])


def test_resume_without_a_stopped_run_starts_from_the_beginning(parent, tmp_path: Path) -> None:
    recipe = parse_recipe("steps: [{method: magnitude, sparsity: 0.5}]")
    result = gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", resume=True)
    assert result.manifest["run"]["resumed"] == 0
    assert set(read_tensors(result.folder))
