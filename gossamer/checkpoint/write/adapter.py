"""Low-rank parts as a LoRA adapter in PEFT's layout, beside the model that they are added to.

    adapter_config.json          what PEFT's LoraConfig reads
    adapter_model.safetensors    base_model.model.NAME.lora_A.weight [R, I], .lora_B.weight [O, R]

PEFT computes W x + B (A x) * alpha / R, its A being our right factor. alpha is R everywhere, so that programs which
ignore `rank_pattern` and `alpha_pattern` scale by 1 too.

O output features, I input features, R the rank.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gossamer.checkpoint.architecture import Architecture
from gossamer.files import write_json
from gossamer.formats.factors import Factors

ADAPTER = "adapter"
"""Folder of the adapter inside that of its base."""


def write_adapter(
    folder: Path, factors: Mapping[str, Factors], architecture: Architecture, base: str, dtype: torch.dtype
) -> None:
    """Write the factors of the named linears of a model into the new folder `folder`.

    `base` is what the adapter calls the model that it belongs to. At least one linear is needed.
    """
    folder.mkdir()
    tensors = {}
    for name, each in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = each.right_RI.to(dtype).contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = each.left_OR.to(dtype).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", adapter_config(factors, architecture, base))


def adapter_config(factors: Mapping[str, Factors], architecture: Architecture, base: str) -> dict[str, Any]:
    """Return what PEFT needs to know; ranks that are not the largest stand in the patterns, by full name."""
    largest = max(each.rank for each in factors.values())
    ranks = {re.escape(name): each.rank for name, each in factors.items() if each.rank != largest}
    causal = architecture.model_class in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if causal else None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": any(architecture.matrix(name).transposed for name in factors),
        "lora_dropout": 0.0,
        "target_modules": sorted(factors),
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
    }
