"""Tiny GGUF files made from tiny models the way llama.cpp's converter makes them, with gguf's own writer."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.tensor_mapping import get_tensor_name_map
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel

F32 = GGMLQuantizationType.F32
BYTE_LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
"""Tokens 0 to 255 of the tokenizer that is written: the letters that stand for bytes."""


def permute(weights: np.ndarray, num_heads: int) -> np.ndarray:
    """llama.cpp's `LlamaModel.permute`: halves of each head interleaved."""
    halves = weights.reshape(num_heads, 2, weights.shape[0] // num_heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def convert(architecture: str, stored: str, weights: np.ndarray, config: Any) -> np.ndarray:
    """What llama.cpp's convert_hf_to_gguf.py does to a weight before it stores it."""
    if architecture == "llama" and ".attn_q." in stored:
        return permute(weights, config.num_attention_heads)
    if architecture == "llama" and ".attn_k." in stored:
        return permute(weights, config.num_key_value_heads)
    if architecture == "gemma3" and stored.endswith("norm.weight"):
        return weights + 1
    if architecture == "gpt2" and weights.ndim == 2 and stored.startswith("blk."):
        return weights.T
    return weights


def write_gguf(
    model: PreTrainedModel,
    architecture: str,
    path: Path,
    *,
    kind: GGMLQuantizationType = F32,
    tokenizer: bool = True,
    pre: str = "gpt-2",
    extra: dict[str, np.ndarray] | None = None,
    keys: dict[str, Any] | None = None,
    tensors_in_part: int = 0,
) -> Path:
    """Write `model` to `path`; matrices of the blocks as `kind` where their rows fit, the rest in float32.

    keys: metadata that are added or replaced; None takes one away. tensors_in_part: split the model into files of so
    many tensors; returns the path of the first.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_in_part)
    _add_metadata(writer, architecture, config)
    if tokenizer:
        _add_tokenizer(writer, pre)
    for key, value in (keys or {}).items():
        _set(writer, key, value)
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = get_tensor_name_map(arch, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        module, _, leaf = name.rpartition(".")
        stored = f"{table.get_name(module)}.{leaf}"
        values = convert(architecture, stored, parameter.detach().float().numpy(), config)
        _add(writer, stored, np.ascontiguousarray(values), kind if stored.startswith("blk.") else F32)
    for stored, values in (extra or {}).items():
        _add(writer, stored, values, F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return next(iter(sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))), path)


def _add_metadata(writer: gguf.GGUFWriter, architecture: str, config: Any) -> None:
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if architecture == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(config.hidden_size // config.num_attention_heads)
        writer.add_rope_freq_base(1_000_000.0 if architecture == "gemma3" else 10_000.0)
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)


def _set(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    writer.kv_data[0].pop(key, None)
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def _add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: GGMLQuantizationType) -> None:
    block_size, _ = gguf.GGML_QUANT_SIZES[kind]
    if kind == F32 or values.ndim < 2 or values.shape[-1] % block_size:
        writer.add_tensor(name, values.astype(np.float32))
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _add_tokenizer(writer: gguf.GGUFWriter, pre: str) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*BYTE_LETTERS, "<pad>", "<bos>", "<eos>", "ĠĠ"])
    writer.add_token_types([1] * 256 + [3] * 3 + [1])
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_pad_token_id(256)
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}")
