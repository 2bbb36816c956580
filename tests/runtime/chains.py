"""Tiny models whose next token depends on the last one only, so that what they write is known beforehand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.models import tiny_model, tiny_tokenizer


def save_chain(
    folder: Path,
    after: Mapping[int, int],
    *,
    tokenizer: Any = None,
    vocabulary: int = 260,
    generation: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write a model that goes from token to token as `after` says, and stays where that says nothing.

    `generation` becomes generation_config.json, which is left out otherwise; `config` replaces fields of config.json,
    None drops them.
    """
    model = tiny_model("llama", hidden_size=320, vocab_size=vocabulary)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.mul_(1e-5)
            block.mlp.down_proj.weight.mul_(1e-5)
        model.model.norm.weight.fill_(1.0)
        embedding_VD, head_VD = model.model.embed_tokens.weight.zero_(), model.lm_head.weight.zero_()
        for token in range(vocabulary):
            embedding_VD[token, token] = 1
            head_VD[after.get(token, token), token] = 1
    model.save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    change_json(folder / "config.json", config)
    (folder / "generation_config.json").unlink()
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def change_json(file: Path, changes: Mapping[str, Any]) -> None:
    """Replace fields of a JSON file; None drops them."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
