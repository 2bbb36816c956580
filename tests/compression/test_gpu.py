"""A whole run on a GPU writes what a run on the CPU writes; skipped where there is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer
from gossamer.recipe.reader import parse_recipe
from tests.compression.device_cases import CALIBRATION, CASES, RECIPES, assert_alike


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
