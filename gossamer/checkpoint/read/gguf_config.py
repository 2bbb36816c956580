"""From GGUF metadata to a transformers config, for the architectures whose conversion is known exactly.

GGUF keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md. What llama.cpp keeps in its code and not in the
file (activations, Gemma's local rotary base, Llama's sorted rotary pairs) follows its convert_hf_to_gguf.py.
Mistral files call themselves "llama" and are computed alike, so they are read as Llama.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import transformers
from transformers import PretrainedConfig

from gossamer.checkpoint.read.gguf_header import GGUFFile
from gossamer.checkpoint.read.gguf_keys import check_keys
from gossamer.checkpoint.read.gguf_metadata import Metadata
from gossamer.checkpoint.read.gguf_rope import rope_parameters
from gossamer.checkpoint.read.gguf_vocabulary import token_ids
from gossamer.checkpoint.read.quiet import quiet
from gossamer.errors import CheckpointError, UnsupportedModelError


def read_config(file: GGUFFile) -> PretrainedConfig:
    """Return the config of the model in the file.

    Raises UnsupportedModelError for other architectures, CheckpointError for metadata that contradict each
    other.
    """
    architecture = file.metadata.get("general.architecture")
    build = CONFIGS.get(architecture) if isinstance(architecture, str) else None
    if build is None:
        raise UnsupportedModelError(
            f"{file.path}: expected a GGUF architecture among {', '.join(CONFIGS)}, got "
            f"{architecture!r:.60}. "
            "Use the model's safetensors folder, if there is one."
        )
    if "token_embd.weight" not in file.tensors or len(file.tensors["token_embd.weight"].shape) != 2:
        raise CheckpointError(
            f"{file.path}: expected a matrix 'token_embd.weight', there is none. The file is incomplete."
        )
    metadata = Metadata(file, str(architecture))
    check_keys(file, metadata.architecture)
    settings = {**_shared(file), **build(metadata)}
    name = settings.pop("config")
    try:
        with quiet():
            return getattr(transformers, name)(**settings)
    except Exception as error:  # configs validate themselves in many ways
        raise CheckpointError(
            f"{file.path}: expected metadata that make a {name}, got {type(error).__name__}: {error!s:.300}."
        ) from error


def _shared(file: GGUFFile) -> dict[str, Any]:
    vocab_size = file.tensors["token_embd.weight"].shape[0]
    ids = token_ids(file, vocab_size)
    return {
        "vocab_size": vocab_size,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": "float32",
        **{f"{name}_token_id": ids.get(name) for name in ("bos", "eos", "pad")},
    }


def _decoder(metadata: Metadata) -> dict[str, Any]:
    """What Llama, Qwen and Gemma have in common."""
    hidden_size, num_heads = metadata.get("embedding_length", int), metadata.get("attention.head_count", int)
    head_dim = metadata.get("attention.key_length", int, max(hidden_size // num_heads, 1))
    rotary = metadata.get("rope.dimension_count", int, head_dim)
    if rotary != head_dim or metadata.get("attention.value_length", int, head_dim) != head_dim:
        raise UnsupportedModelError(
            f"{metadata.file.path}: expected heads that are rotated whole and equally wide in keys and "
            "values, "
            f"got {rotary} of {head_dim} dimensions rotated. This variant is not handled."
        )
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": metadata.get("block_count", int),
        "intermediate_size": metadata.get("feed_forward_length", int),
        "num_attention_heads": num_heads,
        "num_key_value_heads": metadata.get("attention.head_count_kv", int, num_heads),
        "head_dim": head_dim,
        "max_position_embeddings": metadata.get("context_length", int),
        "rms_norm_eps": _short(metadata.get("attention.layer_norm_rms_epsilon", float)),
        "rope_parameters": rope_parameters(metadata),
    }


def _llama(metadata: Metadata) -> dict[str, Any]:
    tensors = metadata.file.tensors
    return {
        **_decoder(metadata),
        "config": "LlamaConfig",
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }


def _qwen2(metadata: Metadata) -> dict[str, Any]:
    settings = _decoder(metadata)
    del settings["head_dim"]
    return {**settings, "config": "Qwen2Config", "architectures": ["Qwen2ForCausalLM"]}


def _qwen3(metadata: Metadata) -> dict[str, Any]:
    bias = "blk.0.attn_q.bias" in metadata.file.tensors
    return {
        **_decoder(metadata),
        "config": "Qwen3Config",
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": bias,
    }


def _gemma3(metadata: Metadata) -> dict[str, Any]:
    settings = _decoder(metadata)
    # llama.cpp: attention is scaled by head_dim, but by hidden / heads in the 27B model (62 layers)
    scale = settings["head_dim"]
    if settings["num_hidden_layers"] == 62:
        scale = settings["hidden_size"] // settings["num_attention_heads"]
    local = {"rope_type": "default", "rope_theta": metadata.get("rope.freq_base_swa", float, 10_000.0)}
    width = settings["head_dim"]
    for key in ("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"):
        if metadata.get(key, int, width) != width:
            raise UnsupportedModelError(
                f"{metadata.file.path}, key 'gemma3.{key}': expected the width of all heads, {width}, got another. "
                "This variant is not handled."
            )
    has_window = metadata.file.metadata.get("gemma3.attention.sliding_window", 0) != 0
    window = metadata.get("attention.sliding_window", int) if has_window else 0
    return {
        **settings,
        "config": "Gemma3TextConfig",
        "architectures": ["Gemma3ForCausalLM"],
        "query_pre_attn_scalar": scale,
        "layer_types": _layer_types(metadata, settings["num_hidden_layers"], window),
        "sliding_window": window or settings["max_position_embeddings"],
        "final_logit_softcapping": metadata.get("final_logit_softcapping", float, 0.0) or None,
        "rope_parameters": {"full_attention": settings["rope_parameters"], "sliding_attention": local},
    }


def _layer_types(metadata: Metadata, num_layers: int, window: int) -> list[str]:
    """Whether each layer of Gemma sees all positions or a window of them: a list, or every so many see all."""
    pattern = metadata.file.metadata.get("gemma3.attention.sliding_window_pattern", 6)
    if type(pattern) is int:
        local = [pattern == 0 or index % pattern < pattern - 1 for index in range(num_layers)]
    elif isinstance(pattern, np.ndarray) and len(pattern) >= num_layers:
        local = pattern[:num_layers].astype(bool).tolist()
    else:
        raise CheckpointError(
            f"{metadata.file.path}, key 'gemma3.attention.sliding_window_pattern': expected a period or a flag for "
            f"each of {num_layers} layers, got {pattern!r:.60}. The file is corrupted."
        )
    return ["sliding_attention" if window and each else "full_attention" for each in local]


def _gpt2(metadata: Metadata) -> dict[str, Any]:
    return {
        "config": "GPT2Config",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": metadata.get("embedding_length", int),
        "n_layer": metadata.get("block_count", int),
        "n_head": metadata.get("attention.head_count", int),
        "n_inner": metadata.get("feed_forward_length", int),
        "n_positions": metadata.get("context_length", int),
        "layer_norm_epsilon": _short(metadata.get("attention.layer_norm_epsilon", float)),
    }


CONFIGS: dict[str, Callable[[Metadata], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
}


def _short(value: float) -> float:
    """The decimal number that a float32 in the file stands for: 9.99999974e-06 -> 1e-05."""
    return float(f"{value:.7g}")
