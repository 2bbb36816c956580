"""A model larger than any cache: a 3B Llama of random weights, on the native engine and in llama.cpp.

Part of benchmarks/engine.py (`--large`). Shapes are those of Llama-3.2-3B; weights are random, because the speed of a
format does not depend on them. The 28 layers are copies of one, at their own addresses.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import numpy
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.numpy import save_file
from torch import Tensor
from transformers import LlamaConfig

from gossamer.evaluation.speed.bandwidth import read_bandwidth
from gossamer.evaluation.speed.llama_cpp import LlamaCppModel
from gossamer.evaluation.speed.native import NativeModel
from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.quantized import Quantized
from gossamer.runtime.engine import Engine

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
TARGETS = {"int4": 1.15, "sparse50-int4": 1.4}
PEER = "Q4_0"
SHARE_TARGET = 0.75
CONTEXT, TOKENS = 64, 8


def measure_large(work: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Decode with all three interleaved; make the files in `work` that are not there."""
    file = work / "random-3b-Q4_0.gguf"
    if not file.exists():
        write_gguf(file)
    models: dict[str, Any] = {}
    for name in TARGETS:
        folder = work / f"random-3b-{name}"
        if not folder.exists():
            write_folder(folder, sparse=name != "int4")
        engine = Engine.open(folder, threads=threads, cache_tokens=4 * CONTEXT)
        models[name] = NativeModel(engine)
    models[PEER] = LlamaCppModel(file, threads, 4 * CONTEXT)
    ids_1T = torch.arange(16)[None]
    taken: dict[str, list[float]] = {name: [] for name in models}
    probes = [read_bandwidth(threads).gb_per_s]
    for number in range(rounds + 1):
        for name in list(models) if number % 2 else list(reversed(models)):
            decode = models[name].run_round(ids_1T, TOKENS).decode
            if number:
                taken[name].append(TOKENS / decode)
    probes.append(read_bandwidth(threads).gb_per_s)
    bandwidth = statistics.mean(probes)
    return {
        "threads": threads,
        "read_bandwidth_gb_per_s": bandwidth,
        "models": [figures(name, models[name], taken, bandwidth) for name in models],
    }


def figures(name: str, model: Any, taken: dict[str, list[float]], bandwidth: float) -> dict[str, Any]:
    decode = statistics.median(taken[name])
    ratios = [own / peer for own, peer in zip(taken[name], taken[PEER], strict=True)]
    return {
        "name": name,
        "weight_bytes_per_token": model.weight_bytes_per_token,
        "decode_tokens_per_s": decode,
        "bandwidth_share": decode * model.weight_bytes_per_token / bandwidth / 1e9,
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "target": TARGETS.get(name),
        "rounds": taken[name],
    }


def as_section(large: dict[str, Any]) -> list[str]:
    """Return the figures as lines of Markdown."""
    lines = [
        "",
        f"## 3B, random weights, {large['threads']} threads, read bandwidth "
        f"{large['read_bandwidth_gb_per_s']:.1f} GB/s",
        "",
        f"Shapes of Llama-3.2-3B. Target: {SHARE_TARGET:.0%} of the bandwidth.",
        "",
        "| model | GB a token | decode | share of bandwidth | ratio | target |",
        "|---|---|---|---|---|---|",
    ]
    for model in large["models"]:
        start = (
            f"| {model['name']} | {model['weight_bytes_per_token'] / 1e9:.2f} | "
            f"{model['decode_tokens_per_s']:.2f} | {model['bandwidth_share']:.2f} | "
        )
        end = f"{model['ratio']:.2f} ({model['low']:.2f} to {model['high']:.2f}) | {model['target']}"
        lines.append(start + (end if model["target"] else " | ") + " |")
    return lines


def random_codes(outputs: int, inputs: int, bits: int, group: int, seed: int) -> Quantized:
    generator = torch.Generator().manual_seed(seed)
    codes_OI = torch.randint(0, 1 << bits, (outputs, inputs), dtype=torch.uint8, generator=generator)
    return Quantized(codes_OI, torch.full((outputs, inputs // group), 2.0**-10), None, bits, group)


def write_folder(folder: Path, sparse: bool) -> None:
    """Write int4 in groups of 64, half of them kept if `sparse`; embedding and head in one int8 table."""
    modules: dict[str, Any] = {}
    tensors: dict[str, Any] = {}

    def put(names: list[str], meta: dict[str, Any], parts: dict[str, Tensor]) -> None:
        for name in names:
            modules[name] = meta
            tensors.update({f"{name}.{key}": part.numpy() for key, part in parts.items()})

    table = IntegerWeight.pack(random_codes(VOCABULARY, HIDDEN, 8, 64, 0))
    put(["model.embed_tokens"], table.meta(), table.tensors())
    for seed, (linear, (_, outputs, inputs)) in enumerate(LINEARS.items()):
        quantized = random_codes(outputs, inputs, 4, 64, seed)
        mask_OI = torch.rand(outputs, inputs, generator=torch.Generator().manual_seed(seed)) < 0.5
        packed = BitmaskWeight.pack(quantized, mask_OI) if sparse else IntegerWeight.pack(quantized)
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
