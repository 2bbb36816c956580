"""Chains of steps: zeros, bits and rank are what the recipe says after all of them."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from gossamer.compression import stages
from gossamer.formats.low_rank import LowRankWeight, residual_mask
from tests.compression.runs import AUTO_CLASSES, outputs, small_run
from tests.conftest import CALIBRATION, Case, read_packed


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("pattern", ["unstructured", "row", "8:16", "block 4x16"])
@pytest.mark.parametrize("apart", ["false", "true"])
def test_zeros_are_what_the_recipe_says_after_pruning_refit_training_and_quantizing(
    apart: str, pattern: str, kind: str, parent, text: Path, tmp_path: Path
) -> None:
    chain = f"""
    steps:
      - {{layers: '*', method: admm, sparsity: 0.5, pattern: '{pattern}', iterations: 5}}
      - {{layers: '*', method: refit, iterations: 3}}
      - {{layers: '*', method: reconstruct, epochs: 2, apart: {apart}}}
      - {{layers: '*', method: gptq, bits: 4, group_size: 32}}
    """
    manifest = small_run(parent(kind), chain, tmp_path / "out", text=str(text), **CALIBRATION)
    assert all(abs(layer["sparsity"] - 0.5) < 0.001 for layer in manifest["layers"])
    for layer in manifest["layers"]:
        assert [step["method"] for step in layer["steps"]] == ["admm", "refit", "gptq"]
        assert all(0 < step["relative_error"] < 1 for step in layer["steps"])
    for block in manifest["blocks"]:
        assert 0 < block["output_error"] < 1
        assert len(block["reconstruction"]) == (2 if apart == "true" else 1)
        assert all(gain["after"] <= gain["before"] for gain in block["reconstruction"])


def test_each_training_of_a_whole_block_trains_its_norms_again(
    parent, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out: list[int] = []
    real = stages.reconstruct

    def noting(*given: Any, **settings: Any) -> Any:
        left_out.append(len(settings["but"]))
        return real(*given, **settings)

    monkeypatch.setattr(stages, "reconstruct", noting)
    chain = """
    steps:
      - {layers: '*', method: wanda, sparsity: 0.5}
      - {layers: '*', method: reconstruct, epochs: 1}
      - {layers: '*', method: refit, iterations: 2}
      - {layers: '*', method: reconstruct, epochs: 1}
    """
    small_run(parent("llama"), chain, tmp_path / "out", text=str(text), samples=8, length=32)
    assert left_out == [0, 0, 0, 0]


LOW_RANK_CHAINS = {
    "oats": "{{method: oats, pattern: '{}', rank: 4, iterations: 5}}",
    "basil": "{{method: basil, pattern: '{}', rank: 4, iterations: 5}}",
    "basil, gptq": "{{method: basil, pattern: '{}', rank: 4, iterations: 5}}, {{method: gptq, group_size: 32}}",
    "oats, refit, gptq, eora": "{{method: oats, pattern: '{}', rank: 4, iterations: 5}}, "
    "{{method: refit, iterations: 3}}, "
    "{{method: gptq, group_size: 32}}, {{method: eora, rank: 5}}",
    "basil, reconstruct, gptq": "{{method: basil, pattern: '{}', rank: 4, iterations: 5}}, "
    "{{method: reconstruct, epochs: 2}}, {{method: gptq, group_size: 32}}",
    "wanda, rtn, eora": "{{method: wanda, pattern: '{}'}}, {{method: rtn, group_size: 32}}, {{method: eora, rank: 4}}",
    "wanda, basil": "{{method: wanda, pattern: '{}'}}, {{method: basil, pattern: '{}', rank: 4, iterations: 5}}",
}


@pytest.mark.parametrize("pattern", ["unstructured", "8:16"])
@pytest.mark.parametrize("chain", LOW_RANK_CHAINS)
def test_zeros_and_rank_are_what_the_recipe_says_after_every_chain_with_a_low_rank_part(
    chain: str, pattern: str, parent, text: Path, tmp_path: Path
) -> None:
    steps = LOW_RANK_CHAINS[chain].format(pattern, pattern)
    manifest = small_run(
        parent("llama"), f"steps: [{steps}]", tmp_path / "out", text=str(text), **CALIBRATION
    )
    packed = read_packed(tmp_path / "out", manifest)
    for layer in manifest["layers"]:
        weight = packed[layer["name"]]
        assert isinstance(weight, LowRankWeight) and weight.residual is not None
        assert abs(layer["sparsity"] - 0.5) < 0.001
        assert int((weight.residual.unpack() != 0).sum()) <= int(residual_mask(weight).sum())
        assert layer["rank"] == weight.factors().rank == (5 if chain.startswith("oats, refit") else 4)
        assert (layer["bits"] == 4) == ("gptq" in chain or "rtn" in chain)
        assert 0 < layer["relative_error"] < 0.2


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_factors_alone_take_the_place_of_a_weight(kind: str, parent, text: Path, tmp_path: Path) -> None:
    recipe = "steps: [{layers: '*', method: svd, rank: 12}, {layers: '*', method: reconstruct, epochs: 1}]"
    manifest = small_run(parent(kind), recipe, tmp_path / "out", text=str(text), **CALIBRATION)
    for layer in manifest["layers"]:
        assert (layer["format"], layer["rank"], layer["sparsity"]) == ("low_rank", 12, 1.0)
        assert layer["bytes"] == 2 * 12 * sum(layer["shape"])
    case = Case(kind, parent(kind), tmp_path / "out", manifest)
    loaded = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(case.folder)
    assert outputs(loaded, kind).isfinite().all()


def test_a_low_rank_part_brings_the_outputs_closer(parent, text: Path, tmp_path: Path) -> None:
    prune, basil = "{method: admm, sparsity: 0.7}", "{method: basil, sparsity: 0.7, rank: 8}"
    quantize, eora = "{method: gptq, bits: 3, group_size: 32}", "{method: eora, rank: 8}"
    errors = []
    for number, steps in enumerate(([prune, quantize], [prune, quantize, eora], [basil, quantize, eora])):
        out = tmp_path / str(number)
        manifest = small_run(
            parent("llama"), f"steps: [{', '.join(steps)}]", out, text=str(text), **CALIBRATION
        )
        errors.append(sum(block["output_error"] for block in manifest["blocks"]))
    assert errors[0] > 1.1 * errors[1] > 1.2 * errors[2]
