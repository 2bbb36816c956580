"""Pruning with one sparsity over all layers, shared out by what their weights cost the model."""

from pathlib import Path

import pytest
import torch

import gossamer
from gossamer.compression.compress import preview
from gossamer.errors import RecipeError
from gossamer.recipe.reader import parse_recipe
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


@pytest.mark.parametrize("method", ["admm", "sparsegpt", "swaps", "wanda"])
def test_windows_keep_as_many_as_their_row_needs_and_the_average_holds(
    method: str, parent, text: Path, tmp_path: Path
) -> None:
    recipe = parse_recipe(f"steps: [{{layers: '*', method: {method}, pattern: '8:16', scope: global}}]")
    made = gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", text=str(text), **CALIBRATION)
    kept, total, chosen = 0, 0, set()
    for weight in read_packed(tmp_path / "out", made.manifest).values():
        rows, columns = weight.shape
        counts = weight.mask().view(rows, columns // 16, 16).sum(2)
        assert bool((counts == counts[:, :1]).all())
        chosen |= set(counts[:, 0].tolist())
        kept, total = kept + int(counts.sum()), total + rows * columns
    assert 0.495 * total < kept <= 0.5 * total
    assert len(chosen) > 1


def test_wanda_leaves_the_weights_that_stay_as_they_were(parent, text: Path, tmp_path: Path) -> None:
    made = gossamer.compress(
        parent("llama"),
        parse_recipe("calibration: {align: false}\n" + GLOBAL.format("wanda", "")),
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


def test_bits_go_where_rounding_costs_most_and_the_average_holds(parent, text: Path, tmp_path: Path) -> None:
    recipe = "steps: [{layers: '*', method: gptq, bits: 4, average_bits: 4.6, group_size: 32}]"
    made = gossamer.compress(
        parent("llama"), parse_recipe(recipe), out=tmp_path / "out", text=str(text), **CALIBRATION
    )
    layers = made.manifest["layers"]
    sizes = [layer["shape"][0] * layer["shape"][1] for layer in layers]
    average = sum(layer["bits"] * size for layer, size in zip(layers, sizes, strict=True)) / sum(sizes)
    assert 4.2 < average <= 4.6
    assert len({layer["bits"] for layer in layers}) > 1
    predicted = preview(parent("llama"), parse_recipe(recipe)).predicted_bytes
    assert made.manifest["size"]["weights_bytes"] == pytest.approx(predicted, rel=0.1)
    with pytest.raises(RecipeError, match="average_bits"):
        parse_recipe(recipe.replace("bits: 4,", "bits: 5,"))


@pytest.mark.parametrize("pattern", ["unstructured", "8:16"])
def test_on_a_mask_layers_get_4_or_8_bits_and_the_average_of_kept_weights_holds(
    pattern: str, parent, text: Path, tmp_path: Path
) -> None:
    mixed = INT4.replace("bits: 4", "bits: 4, average_bits: 4.6")
    recipe = parse_recipe(GLOBAL.format("admm", mixed).replace("sparsity: 0.5", f"pattern: '{pattern}'"))
    made = gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", text=str(text), **CALIBRATION)
    layers = made.manifest["layers"]
    kept = [(1 - layer["sparsity"]) * layer["shape"][0] * layer["shape"][1] for layer in layers]
    average = sum(layer["bits"] * share for layer, share in zip(layers, kept, strict=True)) / sum(kept)
    assert {layer["bits"] for layer in layers} == {4, 8}
    assert 4.1 < average <= 4.6 + 0.02, "windows cannot keep the share exactly"
    assert made.manifest["size"]["weights_bytes"] == pytest.approx(
        preview(parent("llama"), recipe).predicted_bytes, rel=0.1
    )


def test_a_step_before_that_leaves_no_mask_leaves_all_widths(parent, text: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(
        "steps: [{layers: '*', method: refit}, "
        "{layers: '*', method: gptq, bits: 4, average_bits: 5.5, group_size: 32}]"
    )
    made = gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", text=str(text), **CALIBRATION)
    assert {layer["bits"] for layer in made.manifest["layers"]} - {4, 8}


def test_two_stacks_get_the_same_in_every_layer_and_a_note(parent, text: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(
        "steps: [{layers: '*.q', method: gptq, bits: 4, average_bits: 4.5, group_size: 32}, "
        "{layers: '*.wi*', method: sparsegpt, sparsity: 0.5, scope: global}]"
    )
    made = gossamer.compress(parent("t5"), recipe, out=tmp_path / "out", text=str(text), **CALIBRATION)
    assert {layer["sparsity"] for layer in made.manifest["layers"]} == {0.0, 0.5}
    assert {layer["bits"] for layer in made.manifest["layers"]} == {4, None}
    assert made.manifest["size"]["weights_bytes"] == pytest.approx(
        preview(parent("t5"), recipe).predicted_bytes, rel=0.01
    )
    assert any("scope global" in note for note in made.manifest["notes"])


def test_patterns_that_fix_the_sparsity_and_steps_that_come_later_are_refused(parent, tmp_path: Path) -> None:
    for pattern in ("row", "block 4x16"):
        with pytest.raises(RecipeError, match="unstructured"):
            parse_recipe(f"steps: [{{layers: '*', method: admm, pattern: {pattern}, scope: global}}]")
    with pytest.raises(RecipeError, match="unstructured"):
        parse_recipe("steps: [{layers: '*', method: magnitude, pattern: '8:16', scope: global}]")
    save_tiny("llama", tmp_path / "untied", tie_word_embeddings=False)
    for head in ("method: admm, scope: global", "method: gptq, bits: 4, average_bits: 4.5"):
        with pytest.raises(RecipeError, match="head"):
            preview(tmp_path / "untied", parse_recipe(f"steps: [{{layers: ['*', head], {head}}}]"))
    mixed = "{layers: '*', method: gptq, bits: 4, average_bits: 5, group_size: 32}"
    for before in ("method: threshold, threshold: 0.1", "method: magnitude, scope: global"):
        with pytest.raises(RecipeError, match="one threshold"):
            preview(parent("llama"), parse_recipe(f"steps: [{{layers: '*', {before}}}, {mixed}]"))
    five = mixed.replace("average_bits: 5", "average_bits: 6").replace("bits: 4", "bits: 5")
    with pytest.raises(RecipeError, match="4 or 8 bits"):
        preview(parent("llama"), parse_recipe(f"steps: [{{layers: '*', method: wanda}}, {five}]"))
    with pytest.raises(RecipeError, match="first"):
        preview(
            parent("llama"),
            parse_recipe(
                "steps: [{layers: '*', method: wanda, sparsity: 0.2}, "
                "{layers: '*', method: admm, sparsity: 0.5, scope: global}]"
            ),
        )
