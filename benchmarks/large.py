"""A model larger than any cache: a 3B Llama of random weights, on the native engine and in llama.cpp.

Part of benchmarks/engine.py. Shapes are those of Llama-3.2-3B; weights are random, because the speed of a
format does not depend on them. The 28 layers are copies of one, at their own addresses.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.numpy import save_file
from torch import Tensor
from transformers import LlamaConfig

from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.nm import NmWeight
from gossamer.formats.quantized import Quantized
from gossamer.formats.weight import PackedWeight

HIDDEN, INNER, LAYERS, VOCABULARY, HEADS, KEY_HEADS, HEAD_SIZE = 3072, 8192, 28, 128_256, 24, 8, 128
LINEARS = {
    "self_attn.q_proj": ("attn_q", HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.k_proj": ("attn_k", KEY_HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.v_proj": ("attn_v", KEY_HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.o_proj": ("attn_output", HIDDEN, HEADS * HEAD_SIZE),
    "mlp.gate_proj": ("ffn_gate", INNER, HIDDEN),
    "mlp.up_proj": ("ffn_up", INNER, HIDDEN),
    "mlp.down_proj": ("ffn_down", HIDDEN, INNER),
}
"""Name in a folder -> name in a GGUF file, outputs, inputs."""
PEER = "Q4_0"


def prepare_large(work: Path, names: Sequence[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the folders (keys of `PACKED`) and llama.cpp's file; make what is not there in `work`."""
    file = work / f"random-3b-{PEER}.gguf"
    if not file.exists():
        write_gguf(file)
    folders = {name: work / f"random-3b-{name}" for name in names}
    for name, folder in folders.items():
        if not folder.exists():
            write_folder(folder, PACKED[name])
    return folders, {PEER: file}


def dense(quantized: Quantized, _seed: int) -> PackedWeight:
    return IntegerWeight.pack(quantized)


def half(quantized: Quantized, seed: int) -> PackedWeight:
    """A random half is kept."""
    kept_OI = torch.rand(quantized.codes_OI.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return BitmaskWeight.pack(quantized, kept_OI)


def two_of_four(quantized: Quantized, seed: int) -> PackedWeight:
    """A random pair of every four columns is kept."""
    shape = quantized.codes_OI.unflatten(1, (-1, 4)).shape
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    kept_OI = torch.zeros(shape, dtype=torch.bool).scatter_(2, drawn.topk(2).indices, True).flatten(1)
    return NmWeight.pack(quantized, kept_OI, (2, 4))


PACKED = {"int4": dense, "sparse50-int4": half, "nm2of4-int4": two_of_four}
"""How the linears of a folder are packed, by the recipe that gives such a format."""


def random_codes(outputs: int, inputs: int, bits: int, group: int, seed: int) -> Quantized:
    generator = torch.Generator().manual_seed(seed)
    codes_OI = torch.randint(0, 1 << bits, (outputs, inputs), dtype=torch.uint8, generator=generator)
    return Quantized(codes_OI, torch.full((outputs, inputs // group), 2.0**-10), None, bits, group)


def write_folder(folder: Path, pack: Callable[[Quantized, int], PackedWeight]) -> None:
    """Write int4 in groups of 64, packed by `pack`; embedding and head in one table of 6 bits."""
    modules: dict[str, Any] = {}
    tensors: dict[str, Any] = {}

    def put(names: list[str], meta: dict[str, Any], parts: dict[str, Tensor]) -> None:
        for name in names:
            modules[name] = meta
            tensors.update({f"{name}.{key}": part.numpy() for key, part in parts.items()})

    table = IntegerWeight.pack(random_codes(VOCABULARY, HIDDEN, 6, 32, 0))
    put(["model.embed_tokens"], table.meta(), table.tensors())
    for seed, (linear, (_, outputs, inputs)) in enumerate(LINEARS.items()):
        quantized = random_codes(outputs, inputs, 4, 64, seed)
        packed = pack(quantized, seed)
        put([f"model.layers.{layer}.{linear}" for layer in range(LAYERS)], packed.meta(), packed.tensors())
    ones = numpy.ones(HIDDEN, dtype=numpy.float32)
    for layer in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = ones
    tensors["model.norm.weight"] = ones
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, vocab_size=VOCABULARY,
        num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, head_dim=HEAD_SIZE, max_position_embeddings=4096,
        tie_word_embeddings=True, architectures=["LlamaForCausalLM"],
    ).to_dict()  # fmt: skip
    config["quantization_config"] = {
        "quant_method": "gossamer",
        "format_version": 1,
        "modules": modules,
        "tied": {"lm_head": "model.embed_tokens"},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def write_gguf(file: Path) -> None:
    """Write Q4_0 linears and a Q6_K table, the types that llama.cpp's own Q4_0 files of this model have."""
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(HEAD_SIZE)
    writer.add_value_length(HEAD_SIZE)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    random = numpy.random.default_rng(0)
    scale = numpy.frombuffer(numpy.float16(2.0**-10).tobytes(), dtype=numpy.uint8)

    def blocks(rows: int, columns: int, block: int, size: int, scale_at: int) -> Any:
        data = random.integers(0, 256, (rows, columns // block, size), dtype=numpy.uint8)
        data[:, :, scale_at : scale_at + 2] = scale
        return data.reshape(rows, -1)

    table = blocks(VOCABULARY, HIDDEN, 256, 210, 208)
    writer.add_tensor("token_embd.weight", table, raw_dtype=GGMLQuantizationType.Q6_K)
    linears = {name: blocks(rows, columns, 32, 18, 0) for name, rows, columns in LINEARS.values()}
    ones = numpy.ones(HIDDEN, dtype=numpy.float32)
    for layer in range(LAYERS):
        for name, data in linears.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", data, raw_dtype=GGMLQuantizationType.Q4_0)
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", ones)
    writer.add_tensor("output_norm.weight", ones)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
