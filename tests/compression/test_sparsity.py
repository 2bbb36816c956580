"""The zeros of a run are exactly those that were asked for."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.compression.runs import MAGNITUDE, small_run
from tests.conftest import CALIBRATION, read_packed
from tests.models import save_tiny, tiny_model

PATTERNS = {
    "sparsity: 0.5": 0.5, "sparsity: 0.7": 0.7, "sparsity: 0.6, pattern: row": 0.6, "pattern: '2:4'": 0.5,
    "pattern: '4:8'": 0.5, "pattern: '8:16'": 0.5, "pattern: '4:16'": 0.75, "sparsity: 0.5, pattern: block 4x8": 0.5,
}  # fmt: skip


def check_pattern(mask_OI: Tensor, setting: str, share: float) -> None:
    rows, columns = mask_OI.shape
    if "row" in setting:
        assert bool((mask_OI.sum(1) == round((1 - share) * columns)).all())
    elif "pattern: '" in setting:
        n, m = (int(number) for number in setting.rpartition("'")[0].rpartition("'")[2].split(":"))
        assert bool((mask_OI.view(rows, columns // m, m).sum(2) == n).all())
    elif "block" in setting:
        cells = mask_OI.view(rows // 4, 4, columns // 8, 8).sum((1, 3))
        assert bool(((cells == 0) | (cells == 32)).all())
        assert int((cells == 32).sum()) == round((1 - share) * cells.numel())
    else:
        assert int(mask_OI.sum()) == round((1 - share) * rows * columns)


@pytest.mark.parametrize("setting", PATTERNS)
@pytest.mark.parametrize("quantize", ["", ", {layers: '*', method: gptq, bits: 4, group_size: 32}"])
def test_masks_are_exactly_what_was_asked_and_chains_keep_them(
    setting: str, quantize: str, parent, text: Path, tmp_path: Path
) -> None:
    given = {"text": str(text), **CALIBRATION}
    recipe = f"steps: [{{layers: '*.0.*', method: sparsegpt, {setting}}}{quantize.replace('*', '*.0.*')}]"
    manifest = small_run(parent("llama"), recipe, tmp_path / "out", **given)
    packed = read_packed(tmp_path / "out", manifest)
    assert len(packed) == 7
    for weight in packed.values():
        check_pattern(weight.mask(), setting, PATTERNS[setting])


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_the_other_methods_reach_the_sparsity_too(method: str, parent, text: Path, tmp_path: Path) -> None:
    recipe = f"steps: [{{layers: '*', method: {method}, sparsity: 0.6, pattern: row}}]"
    manifest = small_run(parent("gpt2"), recipe, tmp_path / "out", text=str(text), **CALIBRATION)
    for weight in read_packed(tmp_path / "out", manifest).values():
        check_pattern(weight.mask(), "row", 0.6)


def test_one_global_threshold_serves_all_layers(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "dense")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(3.0)
    model.save_pretrained(tmp_path / "dense")
    manifest = small_run(
        tmp_path / "dense", MAGNITUDE.format("sparsity: 0.5, scope: global"), tmp_path / "out"
    )
    packed = read_packed(tmp_path / "out", manifest)
    kept = {name: float(weight.mask().float().mean()) for name, weight in packed.items()}
    total = sum(weight.mask().numel() for weight in packed.values())
    assert sum(int(weight.mask().sum()) for weight in packed.values()) == total - round(0.5 * total)
    assert kept["model.layers.0.mlp.up_proj"] > 0.75
    assert kept["model.layers.1.mlp.up_proj"] < 0.5
    dense = {name: model.get_submodule(name).weight.detach().abs() for name in packed}
    largest_pruned = max(float(dense[name][~weight.mask()].max()) for name, weight in packed.items())
    smallest_kept = min(float(dense[name][weight.mask()].min()) for name, weight in packed.items())
    assert largest_pruned <= smallest_kept


@pytest.mark.parametrize(
    "first", ["method: magnitude, sparsity: 0.6, scope: global", "method: threshold, threshold: 0.1"]
)
def test_what_goes_by_weight_alone_goes_by_the_weights_that_the_model_came_with(
    first: str, text: Path, tmp_path: Path
) -> None:
    model = save_tiny("llama", tmp_path / "dense")
    recipe = f"steps: [{{layers: '*', {first}}}, {{layers: '*', method: gptq, group_size: 32}}]"
    manifest = small_run(tmp_path / "dense", recipe, tmp_path / "out", text=str(text), **CALIBRATION)
    masks = {name: weight.mask() for name, weight in read_packed(tmp_path / "out", manifest).items()}
    dense = {name: model.get_submodule(name).weight.detach().abs() for name in masks}
    largest_pruned = max(float(dense[name][~mask].max()) for name, mask in masks.items())
    assert largest_pruned <= min(float(dense[name][mask].min()) for name, mask in masks.items())
    if "0.6" in first:
        total = sum(mask.numel() for mask in masks.values())
        assert sum(int(mask.sum()) for mask in masks.values()) == total - round(0.6 * total)


def test_a_table_gives_layers_their_own_sparsity(parent, tmp_path: Path) -> None:
    table = "sparsity: {'*.0.mlp.*': 0.75, '*.0.*': 0.25, '*.1.mlp.*': 0.5}"
    manifest = small_run(parent("llama"), MAGNITUDE.format(table), tmp_path / "out")
    shares = {layer["name"]: layer["sparsity"] for layer in manifest["layers"]}
    assert shares["model.layers.0.mlp.up_proj"] == 0.75
    assert shares["model.layers.0.self_attn.q_proj"] == 0.25
    assert shares["model.layers.1.mlp.up_proj"] == 0.5
    assert "model.layers.1.self_attn.q_proj" not in shares


def test_layers_are_the_only_ones_touched(parent, tmp_path: Path) -> None:
    manifest = small_run(
        parent("bert"), MAGNITUDE.format("sparsity: 0.5"), tmp_path / "out", layers="*.1.output.*"
    )
    assert [layer["name"] for layer in manifest["layers"]] == ["bert.encoder.layer.1.output.dense"]


def test_an_absolute_threshold_prunes_what_lies_below(parent, tmp_path: Path) -> None:
    recipe = "steps: [{layers: '*', method: threshold, threshold: 0.05}]"
    manifest = small_run(parent("llama"), recipe, tmp_path / "out")
    dense = tiny_model("llama")
    for name, weight in read_packed(tmp_path / "out", manifest).items():
        assert torch.equal(weight.mask(), dense.get_submodule(name).weight.abs() >= 0.05)
        assert 0.0 < float(weight.mask().float().mean()) < 1.0
