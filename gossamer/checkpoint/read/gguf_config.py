"""From GGUF metadata to a transformers config, for the architectures whose conversion is known exactly.

GGUF keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md. What llama.cpp keeps in its code and not in the
file (activations, Gemma's local rotary base, Llama's sorted rotary pairs) follows its convert_hf_to_gguf.py.
Mistral files call themselves "llama" and are computed alike, so they are read as Llama.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import transformers
from transformers import PretrainedConfig

from gossamer.checkpoint.read.gguf_header import GGUFFile
from gossamer.checkpoint.read.quiet import quiet
from gossamer.errors import CheckpointError, UnsupportedModelError

Value = TypeVar("Value", int, float, str)
LARGEST = 2**31


@dataclass(frozen=True, slots=True)
class Metadata:
    """Typed access to the metadata under `architecture.`"""

    file: GGUFFile
    architecture: str

    def get(self, key: str, kind: type[Value], default: Value | None = None) -> Value:
        """Return `architecture.key`; CheckpointError if of another type, or absent without a default."""
        full = f"{self.architecture}.{key}"
        value: Any = self.file.metadata.get(full, default)
        if kind is float and type(value) is int:
            value = float(value)
        sound = type(value) is kind and (not isinstance(value, int | float) or math.isfinite(value))
        if not sound or (kind is int and not 0 < value < LARGEST):
            raise CheckpointError(
                f"{self.file.path}, key {full!r}: expected {_WORDS[kind]}, got {value!r:.60}. "
                "The file is corrupted or of a variant that is not handled."
            )
        return value

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.file.metadata


_WORDS = {int: "a positive whole number", float: "a finite number", str: "text"}


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
    if metadata.has("expert_count") and metadata.get("expert_count", int, 1) > 1:
        raise UnsupportedModelError(
            f"{file.path}: expected a dense model, got one with experts, which is not handled."
        )
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
    ids = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        full = f"tokenizer.ggml.{key}_token_id"
        value = file.metadata.get(full)
        if value is not None and not (type(value) is int and 0 <= value < vocab_size):
            raise CheckpointError(
                f"{file.path}, key {full!r}: expected a token of the vocabulary (0 to {vocab_size - 1}), "
                f"got {value!r:.40}. The file is corrupted: copy or download it again."
            )
        ids[f"{name}_token_id"] = value
    return {
        "vocab_size": vocab_size,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": "float32",
        **ids,
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
        "rope_parameters": _rope(metadata),
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
    return {
        **settings,
        "config": "Gemma3TextConfig",
        "architectures": ["Gemma3ForCausalLM"],
        "query_pre_attn_scalar": scale,
        "sliding_window": metadata.get("attention.sliding_window", int),
        "rope_parameters": {"full_attention": settings["rope_parameters"], "sliding_attention": local},
    }


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


def _rope(metadata: Metadata) -> dict[str, Any]:
    default = 1_000_000.0 if metadata.architecture == "gemma3" else 10_000.0
    theta = metadata.get("rope.freq_base", float, default)
    if "rope_freqs.weight" in metadata.file.tensors:
        return _llama3_rope(metadata.file, theta)
    kind = metadata.get("rope.scaling.type", str, "none")
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind not in ("linear", "yarn"):
        raise UnsupportedModelError(
            f"{metadata.file.path}: expected rotary scaling none, linear or yarn, got {kind!r:.40}, which "
            "is not handled."
        )
    scaling = {"rope_type": kind, "rope_theta": theta, "factor": metadata.get("rope.scaling.factor", float)}
    if kind == "yarn":
        original = metadata.get("rope.scaling.original_context_length", int)
        scaling["original_max_position_embeddings"] = original
    return scaling


def _llama3_rope(file: GGUFFile, theta: float) -> dict[str, Any]:
    """Llama 3.1 files hold divisors of the frequencies, not the settings they come from: find these again."""
    tensor = file.tensors["rope_freqs.weight"]
    if tensor.type_name != "F32" or len(tensor.shape) != 1:
        raise CheckpointError(f"{file.path}, tensor 'rope_freqs.weight': expected a float32 vector.")
    found = file.raw("rope_freqs.weight").view(np.float32)
    if np.all(found == 1.0):
        return {"rope_type": "default", "rope_theta": theta}
    factor, low, high, original = float(found.max()), 1.0, 4.0, 8192
    wavelength = 2 * np.pi * theta ** (np.arange(0, found.size) / found.size)
    smooth = (original / wavelength - low) / (high - low)
    middle = 1 / ((1 - smooth) / factor + smooth)
    expected = np.where(
        wavelength < original / high, 1.0, np.where(wavelength > original / low, factor, middle)
    )
    if not np.allclose(found, expected, rtol=1e-4):
        raise UnsupportedModelError(
            f"{file.path}, tensor 'rope_freqs.weight': expected the rotary frequencies of Llama 3.1 "
            "(original length "
            "8192), got others, which a transformers config cannot express."
        )
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _short(value: float) -> float:
    """The decimal number that a float32 in the file stands for: 9.99999974e-06 -> 1e-05."""
    return float(f"{value:.7g}")
