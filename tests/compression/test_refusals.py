"""What must not be written: values that are not finite, scales out of range, damage on the way to the disk."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import gossamer
from gossamer.checkpoint.write import writer
from gossamer.errors import CalibrationError, CheckpointError, RecipeError, RunError
from gossamer.recipe.reader import parse_recipe
from tests.compression.runs import MAGNITUDE, outputs, small_run
from tests.conftest import CALIBRATION, RECIPE
from tests.models import save_tiny


def test_training_is_refused_for_embeddings(parent, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="trains blocks"):
        small_run(
            parent("llama"), "steps: [{layers: embeddings, method: reconstruct}]", tmp_path / "out", text="x"
        )


def test_a_parent_with_nan_is_refused_with_the_layer_named(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "dense")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    model.save_pretrained(tmp_path / "dense")
    with pytest.raises(CheckpointError, match=r"^model\.layers\.1\.mlp\.up_proj: .*NaN"):
        small_run(tmp_path / "dense", MAGNITUDE.format("sparsity: 0.5"), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["dense"]


def test_inputs_with_nan_are_refused_with_the_layer_named(text: Path, tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "dense")
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[0] = float("inf")
    model.save_pretrained(tmp_path / "dense")
    with pytest.raises(CalibrationError, match=r"^model\.layers\.1\.self_attn\.q_proj: .*infinite"):
        small_run(
            tmp_path / "dense", "steps: [{method: wanda}]", tmp_path / "out", text=str(text), **CALIBRATION
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["dense"]


@pytest.mark.parametrize("victim", ["codes4", "scale", "norm.weight"])
def test_a_tensor_that_was_damaged_on_its_way_to_the_disk_is_caught(
    victim: str, parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(tensors: dict[str, Tensor], path: Path, metadata: Any = None) -> None:
        damaged = copy.copy(tensors)
        for name in [name for name in tensors if name.endswith(victim)][:1]:
            damaged[name] = tensors[name].clone()
            first = damaged[name].view(torch.uint8).view(-1)
            first[1] ^= 0x01  # a single bit
        save_file(damaged, path, metadata=metadata)

    monkeypatch.setattr(writer, "save_file", damaging)
    with pytest.raises(RunError, match=rf"{victim}: what was written is not what"):
        small_run(parent("llama"), "steps: [{method: rtn, group_size: 32}]", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damaged", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_values_that_are_not_finite_are_named_even_where_no_step_looks(damaged: str, tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "dense")
    with torch.no_grad():
        model.get_parameter(damaged).view(-1)[3] = float("nan")
    model.save_pretrained(tmp_path / "dense")
    with pytest.raises(CheckpointError, match=damaged):
        small_run(
            tmp_path / "dense",
            MAGNITUDE.format("sparsity: 0.5").replace("'*'", "'*.q_proj'"),
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("recipe", "left"), [("int8", ["down_proj"]), (RECIPE, ["up_proj", "down_proj"])])
def test_scales_beyond_float16_leave_a_matrix_unquantized_and_the_model_right(
    recipe: str, left: list[str], text: Path, tmp_path: Path
) -> None:
    model = save_tiny("llama", tmp_path / "parent")
    for block in model.model.layers:
        block.mlp.up_proj.weight.data *= 1e7
        block.mlp.down_proj.weight.data *= 1e-7
    model.save_pretrained(tmp_path / "parent")
    chosen = parse_recipe(recipe) if "\n" in recipe else recipe
    made = gossamer.compress(tmp_path / "parent", chosen, out=tmp_path / "out", text=text)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(made.folder)
    expected, got = outputs(model.float(), "llama"), outputs(loaded, "llama")
    for layer in made.manifest["layers"]:
        assert (layer["bits"] is None) == (layer["kind"] in left)
        assert any("outside of float16" in note for note in layer["notes"]) == (layer["kind"] in left)
    if recipe == "int8":
        assert float((got - expected).norm() / expected.norm()) < 0.02
