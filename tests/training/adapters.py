"""LoRA adapters as PEFT writes them, made by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CONFIG: dict[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "auto_mapping": None,
    "base_model_name_or_path": "some/model", "bias": "none", "corda_config": None, "eva_config": None,
    "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
    "layer_replication": None, "layers_pattern": None, "layers_to_transform": None, "loftq_config": {},
    "lora_alpha": 16, "lora_bias": False, "lora_dropout": 0.05, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "qalora_group_size": 16, "r": 4,
    "rank_pattern": {}, "revision": None, "target_modules": None, "target_parameters": None, "task_type": "CAUSAL_LM",
    "trainable_token_indices": None, "use_dora": False, "use_qalora": False, "use_rslora": False,
}  # fmt: skip
"""What PEFT 0.17 writes."""


def factors(shapes: Mapping[str, tuple[int, int]], rank: int = 4, size: float = 0.1) -> dict[str, Tensor]:
    """Return random A and B for linears of these shapes, under PEFT's names."""
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for name, (num_outputs, num_inputs) in shapes.items():
        drawn = (
            torch.randn(rank, num_inputs, generator=generator),
            torch.randn(num_outputs, rank, generator=generator),
        )
        tensors[f"base_model.model.{name}.lora_A.weight"] = drawn[0] * size
        tensors[f"base_model.model.{name}.lora_B.weight"] = drawn[1] * size
    return tensors


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], **changes: Any) -> Path:
    """Write an adapter; `changes` are those of its configuration."""
    folder.mkdir()
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder
