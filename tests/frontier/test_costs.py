"""What a level costs is what a folder that is really written takes, and what its kernels need."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import gossamer
from gossamer.checkpoint.manifest import read_manifest
from gossamer.checkpoint.source import open_model
from gossamer.compression.preview import predicted_bytes
from gossamer.frontier.costs import LOW_RANK_CONFIG_BYTES, Costs, kernel_ms, packed_random
from gossamer.frontier.levels import DENSE, SPARSE, fitting, is_low_rank, level, recipe_of
from gossamer.kernels.table import product
from gossamer.recipe.recipe import Calibration
from gossamer.runtime.choose import choose_engine

LOW_RANK = [name for name in (*DENSE, *SPARSE) if is_low_rank(name)]
FACTOR_BYTES = 2
"""float16."""


@pytest.mark.parametrize("name", LOW_RANK)
def test_a_matrix_with_a_low_rank_part_takes_the_bytes_that_were_predicted_and_runs_natively(
    name: str, parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    costs = Costs(open_model(parent("llama")))
    chosen = {linear: fitting(name, costs.shapes[linear][1]) for linear in costs.linears}
    recipe = recipe_of(chosen, costs.embedding, costs.head, Calibration(samples=2, length=32))
    made = gossamer.compress(parent("llama"), recipe, out=tmp_path / "o", text=str(text))
    declared = read_manifest(made.folder)["tensors"]
    written = load_file(made.folder / "model.safetensors")
    for linear in costs.linears:
        meta = declared[linear]["meta"]
        assert meta["format"] == "low_rank"
        stored = sum(tensor.nbytes for key, tensor in written.items() if key.startswith(f"{linear}."))
        predicted = costs.bytes(linear, chosen[linear]) - LOW_RANK_CONFIG_BYTES
        assert predicted == stored - _uneven_bytes(meta["residual"], chosen[linear])
    assert choose_engine(made.folder) == "native"


def test_a_folder_grows_by_what_low_rank_parts_were_predicted_to_cost(
    parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    costs = Costs(open_model(parent("llama")))
    folders, matrices = [], []
    for name in ("int4-g32", "int4-g32-rank3"):
        chosen = dict.fromkeys(costs.linears, name)
        recipe = recipe_of(chosen, costs.embedding, costs.head, Calibration(samples=2, length=32))
        made = gossamer.compress(parent("llama"), recipe, out=tmp_path / name, text=str(text))
        folders.append(made.manifest["size"]["total_bytes"])
        matrices.append(sum(costs.bytes(*pair) for pair in chosen.items()))
    assert folders[1] - folders[0] == pytest.approx(matrices[1] - matrices[0], rel=0.03)


def _uneven_bytes(residual: dict[str, Any], option: str) -> int:
    """What a bitmask of int4 values takes beyond them, because the two streams of a strip are not equally long."""
    target = level(option).target
    if residual["format"] != "bitmask" or target is None:
        return 0
    num_kept = round((1 - target.share) * math.prod(residual["shape"]))
    return int(residual["num_values"]) - math.ceil(num_kept / 2)


@given(
    rows=st.integers(1, 80),
    columns=st.integers(1, 80),
    percent=st.sampled_from(["0.5", "3", "6", "50", "99"]),
    grid=st.sampled_from(["int4-g64", "int3-g32-asym", "int8-row"]),
)
def test_factors_of_any_matrix_cost_their_float16_values_however_small_it_is(
    rows: int, columns: int, percent: str, grid: str
) -> None:
    base = fitting(grid, columns)
    name = fitting(f"{grid}-rank{percent}", columns)
    assert name == f"{base}-rank{percent}"
    low_rank = level(name).low_rank
    assert low_rank is not None
    rank = low_rank.rank_for(rows, columns)
    assert 1 <= rank <= min(rows, columns)
    plain = predicted_bytes((rows, columns), level(base).steps)
    whole = predicted_bytes((rows, columns), level(name).steps)
    assert whole == plain + FACTOR_BYTES * rank * (rows + columns)


@pytest.mark.parametrize("name", LOW_RANK)
@pytest.mark.parametrize("shape", [(64, 96), (8, 16)])
def test_the_kernels_that_are_timed_are_those_of_the_format(name: str, shape: tuple[int, int]) -> None:
    option = fitting(name, shape[1])
    packed = packed_random(shape, option)
    assert packed.format == "low_rank"
    assert packed.num_bytes == pytest.approx(predicted_bytes(shape, level(option).steps), rel=0.1)
    assert kernel_ms(shape, option) > 0


@pytest.mark.parametrize(("choice", "wanted"), [("0", "bitmask"), ("1", "integer")])
def test_a_bitmask_is_timed_in_the_form_that_the_engine_multiplies(
    choice: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats: set[str] = set()

    def seen(meta: Any, tensors: Any) -> Any:
        formats.add(meta["format"])
        return product(meta, tensors)

    option = next(name for name in SPARSE if packed_random((64, 128), name).format == "bitmask")
    monkeypatch.setenv("GOSSAMER_EXPAND", choice)
    monkeypatch.setattr("gossamer.frontier.costs.product", seen)
    assert kernel_ms((64, 128), option) > 0
    assert wanted in formats
