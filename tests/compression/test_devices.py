"""A whole run on another device than the CPU writes what a run on the CPU writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer
from gossamer.compression.compress import usable_device
from gossamer.errors import UsageError
from gossamer.recipe.reader import parse_recipe
from tests.away import away
from tests.compression.device_cases import CALIBRATION, CASES, RECIPES, assert_alike
from tests.compression.test_keeping import StoppedError, stopping


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


@pytest.mark.parametrize("name", ["abacus", "cpu:x", "meta", "xla"])
def test_a_device_that_cannot_be_used_is_refused_by_name(
    name: str, parent: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = parse_recipe(RECIPES["one threshold"])
    with pytest.raises(UsageError, match=f"--device {name}: "):
        gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", device=name)
    assert not list(tmp_path.iterdir())
    assert usable_device("cpu") == torch.device("cpu")
