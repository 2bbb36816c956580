"""A LoRA adapter in PEFT's layout: what is read of it, and what is refused."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer.checkpoint.read.lora import read_adapter
from gossamer.errors import CheckpointError, GossamerError, UnsupportedModelError
from tests.training.adapters import factors, write_adapter

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
SHAPES = {Q: (64, 64), DOWN: (64, 96)}
PREFIX = "base_model.model."


def spoiled(key: str, value: object) -> dict[str, Any]:
    return {"changes": {key: value}}


PLAIN = factors(SHAPES)
A = f"{PREFIX}{Q}.lora_A.weight"


@pytest.mark.parametrize(
    ("error", "words", "given"),
    [
        (UnsupportedModelError, "use_dora", spoiled("use_dora", True)),
        (UnsupportedModelError, "peft_type LORA, got 'IA3'", spoiled("peft_type", "IA3")),
        (UnsupportedModelError, "replicated layers", spoiled("layer_replication", [[0, 2]])),
        (UnsupportedModelError, "single trained tokens", spoiled("trainable_token_indices", [1])),
        (UnsupportedModelError, "fused experts", spoiled("target_parameters", ["experts.down_proj"])),
        (UnsupportedModelError, "not known here", spoiled("use_novelty", True)),
        (UnsupportedModelError, "changes the base model", spoiled("init_lora_weights", "pissa_niter_4")),
        (UnsupportedModelError, "biases of adapters", spoiled("lora_bias", True)),
        (UnsupportedModelError, "bias: expected one of", spoiled("bias", "some")),
        (CheckpointError, "expected what PEFT writes", spoiled("r", "many")),
        (CheckpointError, "expected what PEFT writes", spoiled("rank_pattern", {"(": 4})),
        (CheckpointError, r"expected lora_A \[8, I\]", spoiled("r", 8)),
        (UnsupportedModelError, "DoRA", {"more": {f"{PREFIX}{Q}.lora_magnitude_vector": torch.ones(64)}}),
        (UnsupportedModelError, "embeddings", {"more": {f"{PREFIX}embed.lora_embedding_A": torch.ones(4, 260)}}),
        (UnsupportedModelError, "biases of adapters", {"more": {f"{PREFIX}{Q}.lora_B.bias": torch.ones(64)}}),
        (UnsupportedModelError, "neither of an adapter", {"more": {f"{PREFIX}model.norm.weight": torch.ones(64)}}),
        (UnsupportedModelError, "I64", {"more": {f"{PREFIX}x.lora_A.weight": torch.ones(4, 4, dtype=torch.int64)}}),
        (CheckpointError, "NaN", {"more": {A: torch.full((4, 64), float("nan"))}}),
        (CheckpointError, "names that begin with", {"more": {"model.x.lora_A.weight": torch.ones(4, 4)}}),
        (CheckpointError, "is not", {"more": {f"{PREFIX}{DOWN}x.lora_A.weight": torch.ones(4, 96)}}),
        (CheckpointError, "nothing to merge", {"tensors": {}}),
    ],
)  # fmt: skip
def test_an_adapter_that_cannot_be_honoured_is_refused(
    error: type[GossamerError], words: str, given: dict[str, Any], tmp_path: Path
) -> None:
    tensors = {**given.get("tensors", PLAIN), **given.get("more", {})}
    adapter = write_adapter(tmp_path / "adapter", tensors, **given.get("changes", {}))
    with pytest.raises(error, match=words):
        read_adapter(adapter)


def test_every_tensor_has_its_use_or_is_named(tmp_path: Path) -> None:
    tensors = {
        **PLAIN,
        f"{PREFIX}lm_head.base_layer.weight": torch.ones(8, 4),
        f"{PREFIX}score.modules_to_save.weight": torch.ones(2, 64),
        f"{PREFIX}{Q}.base_layer.bias": torch.ones(64),
    }
    adapter = read_adapter(
        write_adapter(tmp_path / "adapter", tensors, modules_to_save=["score"], bias="lora_only")
    )
    assert set(adapter.pairs) == set(SHAPES)
    assert set(adapter.replaced) == {"score.weight", f"{Q}.bias"}
    assert any("LEFT OUT" in note and "lm_head" in note for note in adapter.notes)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    assert adapter.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_biases_that_are_promised_and_missing_are_told(tmp_path: Path) -> None:
    adapter = read_adapter(write_adapter(tmp_path / "adapter", PLAIN, bias="all"))
    assert any("bias is all" in note for note in adapter.notes)
