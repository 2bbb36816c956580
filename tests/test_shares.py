"""Pruning with one sparsity over all layers, shared out by what their weights cost the model."""

from pathlib import Path

import pytest
import torch

import gossamer
from gossamer.errors import RecipeError
from gossamer.pipeline import plan
from gossamer.recipe import parse_recipe
from tests.conftest import CALIBRATION, read_packed
from tests.models import save_tiny

GLOBAL = "steps: [{{layers: '*', method: {}, sparsity: 0.5, scope: global}}{}]"
INT4 = ", {layers: '*', method: gptq, bits: 4, group_size: 32}"


@pytest.mark.parametrize(
    ("kind", "method", "rest"),
    [
        ("llama", "admm", INT4),
        ("gpt2", "sparsegpt", ""),
        ("bert", "admm", ""),
        ("llama", "basil, rank: 2", ""),
    ],
)
def test_all_layers_together_have_the_sparsity(
    kind: str, method: str, rest: str, parent, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    recipe = parse_recipe(GLOBAL.format(method, rest))
    made = gossamer.compress(parent(kind), recipe, out=out, text=str(text), **CALIBRATION)
    shares = {layer["name"]: layer["sparsity"] for layer in made.manifest["layers"]}
    sizes = {layer["name"]: layer["shape"][0] * layer["shape"][1] for layer in made.manifest["layers"]}
    total = sum(sizes.values())
    assert sum(round(shares[name] * sizes[name]) for name in sizes) == round(0.5 * total)
    assert max(shares.values()) - min(shares.values()) > 0.02


def test_wanda_leaves_the_weights_that_stay_as_they_were(parent, text: Path, tmp_path: Path) -> None:
    made = gossamer.compress(
        parent("llama"),
        parse_recipe("calibration: {aim: false}\n" + GLOBAL.format("wanda", "")),
        out=tmp_path / "out",
        text=str(text),
        **CALIBRATION,
    )
    dense = gossamer.load(parent("llama")).model
    for name, weight in read_packed(tmp_path / "out", made.manifest).items():
        kept = weight.mask()
        before = dense.get_submodule(name).weight.detach()[kept]
        torch.testing.assert_close(weight.unpack()[kept], before, rtol=1e-6, atol=0)


def test_a_layer_that_decides_nothing_is_pruned_most(text: Path, tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "dense")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1e-3)
    model.save_pretrained(tmp_path / "dense")
    made = gossamer.compress(
        tmp_path / "dense",
        parse_recipe(GLOBAL.format("sparsegpt", "")),
        out=tmp_path / "out",
        text=str(text),
        **CALIBRATION,
    )
    shares = {layer["name"]: layer["sparsity"] for layer in made.manifest["layers"]}
    without_use = [shares[f"model.layers.0.mlp.{name}"] for name in ("gate_proj", "up_proj")]
    used = [shares[f"model.layers.1.mlp.{name}"] for name in ("gate_proj", "up_proj")]
    assert min(without_use) > 0.9 > 0.6 > max(used)


def test_two_stacks_and_patterns_that_fix_the_sparsity_are_refused(
    parent, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="encoder and a decoder"):
        gossamer.compress(
            parent("t5"),
            parse_recipe(GLOBAL.format("wanda", "")),
            out=tmp_path / "out",
            text=str(text),
            **CALIBRATION,
        )
    assert not (tmp_path / "out").exists()
    with pytest.raises(RecipeError, match="unstructured"):
        parse_recipe("steps: [{layers: '*', method: admm, pattern: '8:16', scope: global}]")
    with pytest.raises(RecipeError, match="first"):
        plan(
            parent("llama"),
            parse_recipe(
                "steps: [{layers: '*', method: wanda, sparsity: 0.2}, "
                "{layers: '*', method: admm, sparsity: 0.5, scope: global}]"
            ),
        )
