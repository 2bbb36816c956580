"""Export for PEFT: base and adapter together are the folder, computed as PEFT documents it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import gossamer
from gossamer.errors import UsageError
from gossamer.recipe.reader import parse_recipe
from tests.models import tiny_inputs

RECIPE = """
calibration: {samples: 4, length: 32}
steps:
  - {layers: "*", method: basil, rank_share: 0.1, iterations: 3}
  - {layers: "*", method: gptq, group_size: 32}
"""


def value_for(patterns: dict[str, int], name: str, default: int) -> int:
    """What PEFT's `get_pattern_key` finds: the first pattern that the end of the name matches."""
    found = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name))
    return next(found, default)


def with_adapter(model: nn.Module, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Merge W + B A * alpha / r into each target, as PEFT's LoRA linear computes it."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors: dict[str, Tensor] = load_file(folder / "adapter_model.safetensors")
    for name in config["target_modules"]:
        a_RI = tensors.pop(f"base_model.model.{name}.lora_A.weight")
        b_OR = tensors.pop(f"base_model.model.{name}.lora_B.weight")
        rank = value_for(config["rank_pattern"], name, config["r"])
        alpha = value_for(config["alpha_pattern"], name, config["lora_alpha"])
        assert a_RI.shape[0] == b_OR.shape[1] == rank
        delta_OI = b_OR @ a_RI * (alpha / rank)
        module = model.get_submodule(name)
        assert isinstance(module, Conv1D) == config["fan_in_fan_out"]
        with torch.no_grad():
            module.weight += delta_OI.T if config["fan_in_fan_out"] else delta_OI
    assert not tensors
    return model, config


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_base_and_adapter_together_give_the_logits_of_the_folder(
    kind: str, parent, text: Path, tmp_path: Path
) -> None:
    gossamer.compress(parent(kind), parse_recipe(RECIPE), out=tmp_path / "small", text=str(text))
    out = gossamer.export(tmp_path / "small", tmp_path / "plain", format="peft")
    base, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.inference_mode():
        expected = gossamer.load(tmp_path / "small").model(**tiny_inputs(kind)).logits
        alone = base(**tiny_inputs(kind)).logits
    merged, config = with_adapter(base, out / "adapter")
    with torch.inference_mode():
        together = merged(**tiny_inputs(kind)).logits
    torch.testing.assert_close(together, expected, atol=1e-3, rtol=1e-3)
    assert float((alone - expected).abs().max()) > 0.01
    assert config["peft_type"] == "LORA" and config["task_type"] == "CAUSAL_LM"
    assert config["rank_pattern"] and config["rank_pattern"] == config["alpha_pattern"]


def test_the_base_of_factors_alone_is_zero(parent, text: Path, tmp_path: Path) -> None:
    recipe = "steps: [{layers: '*q_proj', method: svd, rank: 3}]"
    settings = {"text": str(text), "samples": 2, "length": 32}
    gossamer.compress(parent("llama"), parse_recipe(recipe), out=tmp_path / "small", **settings)
    out = gossamer.export(tmp_path / "small", tmp_path / "plain", format="peft", dtype="bfloat16")
    weight = load_file(out / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    assert weight.dtype == torch.bfloat16 and not weight.any()
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == [f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)]
    assert config["r"] == 3 and config["rank_pattern"] == {}


def test_the_dense_export_holds_both_parts(parent, text: Path, tmp_path: Path) -> None:
    gossamer.compress(parent("llama"), parse_recipe(RECIPE), out=tmp_path / "small", text=str(text))
    out = gossamer.export(tmp_path / "small", tmp_path / "plain")
    plain = transformers.AutoModelForCausalLM.from_pretrained(out)
    with torch.inference_mode():
        expected = gossamer.load(tmp_path / "small").model(**tiny_inputs("llama")).logits
        got = plain(**tiny_inputs("llama")).logits
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
    assert not (out / "adapter").exists()


def test_a_folder_without_a_low_rank_part_is_refused(compressed, parent, tmp_path: Path) -> None:
    for model in (compressed("llama").folder, parent("llama")):
        with pytest.raises(UsageError, match="low-rank"):
            gossamer.export(model, tmp_path / "plain", format="peft")
    assert not list(tmp_path.iterdir())
