"""The loop: what later blocks see, and how much is lost."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gossamer
from gossamer.checkpoint.source import open_model
from gossamer.compression import stages
from gossamer.compression.windows import calibration_samples, with_calibration
from gossamer.recipe.reader import parse_recipe
from tests.compression.runs import small_run
from tests.conftest import CALIBRATION
from tests.models import tiny_inputs, tiny_model


def test_later_blocks_see_what_the_compressed_earlier_ones_return(
    parent, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Tensor] = {}
    real = stages.apply_steps

    def noting(job: Any, layer: Any, steps: Any, statistic: Any) -> None:
        seen[layer.name] = statistic.value().clone()
        real(job, layer, steps, statistic)

    monkeypatch.setattr(stages, "apply_steps", noting)
    recipe = "steps: [{layers: '*', method: sparsegpt, sparsity: 0.7}]"
    small_run(parent("llama"), recipe, tmp_path / "out", text=str(text), **CALIBRATION)
    source = open_model(parent("llama"))
    ids_NL, _ = calibration_samples(
        source, with_calibration(parse_recipe(recipe), 4, 32, 0), str(text), lambda *_: None, []
    )
    dense, small = tiny_model("llama"), gossamer.load(tmp_path / "out").model
    name = "model.layers.1.self_attn.q_proj"
    inputs: list[Tensor] = []
    for model in (dense, small):
        handle = model.get_submodule(name).register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
        with torch.inference_mode():
            model(ids_NL)
        handle.remove()
    own, compressed_prefix = (x.reshape(-1, 64).T @ x.reshape(-1, 64) / ids_NL.numel() for x in inputs)
    torch.testing.assert_close(seen[name], compressed_prefix, atol=1e-4, rtol=1e-3)
    assert float((seen[name] - own).norm() / own.norm()) > 0.05


def test_aiming_at_the_dense_model_brings_the_outputs_closer(parent, text: Path, tmp_path: Path) -> None:
    recipe = "calibration: {{align: {}}}\nsteps: [{{layers: '*', method: gptq, bits: 2, group_size: 32}}]"
    dense, ids_NL = tiny_model("llama"), tiny_inputs("llama", batch_size=4, seed=9)["input_ids"]
    distances = {}
    for align in ("true", "false"):
        small_run(
            parent("llama"), recipe.format(align), tmp_path / align, text=str(text), samples=64, length=32
        )
        small = gossamer.load(tmp_path / align).model
        with torch.inference_mode():
            distances[align] = float((small(ids_NL).logits - dense(ids_NL).logits).square().mean())
    assert distances["true"] < distances["false"]


def test_an_untied_head_can_be_compressed_on_what_it_sees(parent, text: Path, tmp_path: Path) -> None:
    recipe = "steps: [{layers: head, method: gptq, bits: 4, group_size: 32}]"
    manifest = small_run(parent("llama"), recipe, tmp_path / "out", text=str(text), **CALIBRATION)
    [layer] = manifest["layers"]
    assert layer["name"] == "lm_head"
    assert 0.0 < layer["relative_error"] < 0.2


def test_sparsegpt_loses_less_of_the_outputs_than_magnitude(parent, text: Path, tmp_path: Path) -> None:
    errors = {}
    for method in ("sparsegpt", "wanda"):
        recipe = f"steps: [{{layers: '*', method: {method}, sparsity: 0.5}}]"
        manifest = small_run(parent("llama"), recipe, tmp_path / method, text=str(text), **CALIBRATION)
        errors[method] = [layer["relative_error"] for layer in manifest["layers"]]
    assert errors["sparsegpt"][0] < errors["wanda"][0]
    assert all(0 < error < 1 for error in errors["sparsegpt"])
