"""A whole run on another device than the CPU writes what a run on the CPU writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer
from gossamer.compression.compress import Compressed, usable_device
from gossamer.errors import UsageError
from gossamer.recipe.reader import parse_recipe
from tests.away import away
from tests.compression.test_keeping import StoppedError, stopping
from tests.conftest import read_packed

RECIPES = {
    "sparsegpt and gptq, aligned": """
calibration: {align: true}
steps:
  - {layers: "*", method: sparsegpt, sparsity: 0.5}
  - {layers: "*", method: gptq, bits: 4, group_size: 32}
  - {layers: [embeddings, head], method: rtn, bits: 8, group_size: 32}
""",
    "admm with scope global, and mixed bits": """
steps:
  - {layers: "*", method: admm, sparsity: 0.5, scope: global}
  - {layers: "*", method: gptq, bits: 4, group_size: 32, average_bits: 5}
""",
    "windows with scope global": 'steps: [{layers: "*", method: wanda, pattern: "8:16", scope: global}]',
    "one threshold": 'steps: [{layers: "*", method: magnitude, sparsity: 0.5, scope: global}]',
    "training": """
steps:
  - {layers: "*", method: wanda, pattern: "2:4"}
  - {layers: "*", method: reconstruct, epochs: 1, apart: true}
""",
    "factors": """
steps:
  - {layers: "*", method: basil, sparsity: 0.5, rank: 2}
  - {layers: "*", method: rtn, bits: 4, group_size: 32}
  - {layers: "*", method: eora, rank: 2}
""",
}


CASES = [*(("llama", name) for name in RECIPES), ("gpt2", "training"), ("t5", "windows with scope global")]
CALIBRATION = {"samples": 4, "length": 16, "layers": "*.0.*"}
"""The first block, or blocks, alone: no operation on the pretended device is fast."""


def assert_alike(one: Compressed, other: Compressed) -> None:
    """The same matrices in the same formats; the first the same but for rounding, the others with errors as large.

    An attention that is rounded otherwise in its last bits makes later masks and codes fall otherwise here and there.
    """
    mine, yours = read_packed(one.folder, one.manifest), read_packed(other.folder, other.manifest)
    assert mine.keys() == yours.keys()
    pairs = list(zip(one.manifest["layers"], other.manifest["layers"], strict=True))
    for own, theirs in pairs:
        for key in ("name", "bits", "rank", "format"):
            assert own[key] == theirs[key]
        assert own["sparsity"] == pytest.approx(theirs["sparsity"], abs=0.02)
    first = next(own["name"] for own, _ in pairs if own["block"] == 0)
    assert torch.equal(mine[first].mask(), yours[first].mask())
    torch.testing.assert_close(mine[first].unpack(), yours[first].unpack(), atol=1e-3, rtol=1e-2)
    equal = [float((mine[name].mask() == yours[name].mask()).float().mean()) for name in mine]
    assert sum(equal) / len(equal) >= 0.95
    errors = [sum(layer["relative_error"] for layer in layers) for layers in zip(*pairs, strict=True)]
    assert errors[0] == pytest.approx(errors[1], rel=0.1)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_run_elsewhere_writes_what_a_run_on_the_cpu_writes(
    kind: str, name: str, parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    recipe = parse_recipe(RECIPES[name])
    settings: dict[str, Any] = {"text": str(text), **CALIBRATION}
    here = gossamer.compress(parent(kind), recipe, out=tmp_path / "here", **settings)
    with away() as device:
        there = gossamer.compress(
            parent(kind), recipe, out=tmp_path / "there", device=str(device), **settings
        )
    assert here.manifest["run"]["device"] == "cpu"
    assert there.manifest["run"]["device"] == str(device)
    assert_alike(here, there)


def test_a_run_that_was_stopped_elsewhere_goes_on_here_and_says_so(
    parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    recipe = parse_recipe(
        'steps: [{layers: "*", method: wanda, sparsity: 0.5, scope: global, pattern: "8:16"}]'
    )
    settings: dict[str, Any] = {"out": tmp_path / "out", "text": str(text), "samples": 4, "length": 16}
    with away() as device, pytest.raises(StoppedError):
        gossamer.compress(parent("llama"), recipe, device=str(device), progress=stopping(1), **settings)
    made = gossamer.compress(parent("llama"), recipe, resume=True, **settings)
    assert made.manifest["run"]["resumed"] == 1
    assert any("device away:0 before, cpu after" in note for note in made.manifest["notes"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_run_on_a_gpu_writes_what_a_run_on_the_cpu_writes(
    kind: str, name: str, parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    recipe = parse_recipe(RECIPES[name])
    settings: dict[str, Any] = {"text": str(text), **CALIBRATION}
    here = gossamer.compress(parent(kind), recipe, out=tmp_path / "here", **settings)
    there = gossamer.compress(parent(kind), recipe, out=tmp_path / "there", device="cuda", **settings)
    assert there.manifest["run"]["device"] == "cuda"
    assert_alike(here, there)


@pytest.mark.parametrize("name", ["abacus", "cpu:x", "meta", "xla"])
def test_a_device_that_cannot_be_used_is_refused_by_name(
    name: str, parent: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = parse_recipe(RECIPES["one threshold"])
    with pytest.raises(UsageError, match=f"--device {name}: "):
        gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", device=name)
    assert not list(tmp_path.iterdir())
    assert usable_device("cpu") == torch.device("cpu")
