import os
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf.constants import GGMLQuantizationType
from transformers import AutoModelForCausalLM

from gossamer.checkpoint.read.gguf import GGUFModelReader, read_tensor
from gossamer.checkpoint.read.gguf_header import read_gguf
from gossamer.checkpoint.read.quiet import quiet
from gossamer.checkpoint.source import open_model
from gossamer.errors import CheckpointError, UnsupportedModelError
from tests.checkpoint.gguf_files import write_gguf
from tests.checkpoint.reference_dequantization import BLOCKS, dequantize_block
from tests.models import tiny_inputs, tiny_model

ARCHITECTURES = {"mistral": "llama", **{name: name for name in ("llama", "qwen2", "qwen3", "gemma3", "gpt2")}}


def model_for_gguf(kind: str) -> transformers.PreTrainedModel:
    """A tiny model that the file's metadata can express."""
    changes = {"query_pre_attn_scalar": 16, "sliding_window": 8} if kind == "gemma3" else {}
    if kind == "qwen2":
        changes = {"num_key_value_heads": 4}
    return tiny_model(kind, **changes)


def logits(model: transformers.PreTrainedModel, kind: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny_inputs(kind)).logits


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_converted_model_gives_the_logits_of_the_original(kind: str, tmp_path: Path) -> None:
    model = model_for_gguf(kind)
    path = write_gguf(model, ARCHITECTURES[kind], tmp_path / "model.gguf")
    loaded = open_model(path).load_dense()
    assert loaded.config.tie_word_embeddings == model.config.tie_word_embeddings
    torch.testing.assert_close(logits(loaded, kind), logits(model, kind), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_model_equals_the_one_that_transformers_reads(kind: str, tmp_path: Path) -> None:
    path = write_gguf(model_for_gguf(kind), kind, tmp_path / "model.gguf", kind=GGMLQuantizationType.Q4_1)
    with quiet():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    ours = open_model(path).load_dense()
    assert_equal(logits(ours, kind), logits(expected, kind))


def test_blocks_stay_on_the_meta_device_until_they_are_materialised(tmp_path: Path) -> None:
    model = tiny_model("llama")
    source = open_model(write_gguf(model, "llama", tmp_path / "model.gguf"))
    block = source.architecture.blocks[1]
    assert {p.device.type for p in source.model.get_submodule(block).parameters()} == {"meta"}
    assert source.model.model.embed_tokens.weight.device.type == "cpu"
    real = source.materialise(block)
    for name, parameter in real.named_parameters():
        torch.testing.assert_close(parameter, model.get_submodule(block).get_parameter(name), rtol=0, atol=0)
    source.model.set_submodule(block, real)
    source.release(block)
    assert {p.device.type for p in source.model.get_submodule(block).parameters()} == {"meta"}


def test_a_model_put_together_from_materialised_blocks_runs_like_the_whole(tmp_path: Path) -> None:
    source = open_model(write_gguf(tiny_model("qwen3"), "qwen3", tmp_path / "model.gguf"))
    for block in source.architecture.blocks:
        source.model.set_submodule(block, source.materialise(block))
    assert_equal(logits(source.model, "qwen3"), logits(source.load_dense(), "qwen3"))


def test_a_tied_head_materialises_as_the_embedding(tmp_path: Path) -> None:
    model = tiny_model("qwen2", num_key_value_heads=4)
    source = open_model(write_gguf(model, "qwen2", tmp_path / "model.gguf"))
    assert source.model.lm_head.weight is source.model.model.embed_tokens.weight
    torch.testing.assert_close(source.materialise("lm_head").weight, model.lm_head.weight, rtol=0, atol=0)


@pytest.mark.parametrize("type_name", BLOCKS)
def test_every_type_is_dequantized_like_the_reference(type_name: str, tmp_path: Path) -> None:
    kind = GGMLQuantizationType[type_name]
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(0)
    rows, blocks_in_row = 5, 3
    raw = generator.integers(0, 256, (rows, blocks_in_row, block_bytes), dtype=np.uint8)
    halves = {"F16": range(0, block_bytes, 2), "BF16": (), "F32": ()}.get(type_name, BLOCKS[type_name])
    for place in halves:  # scales: finite float16 numbers
        raw[:, :, place : place + 2] = generator.normal(size=(rows, blocks_in_row, 1)).astype("f2").view("u1")
    if type_name in ("F32", "BF16"):
        width = 4 if type_name == "F32" else 2
        values = generator.normal(size=(rows, blocks_in_row, 1)).astype(np.float32).view(np.uint8)
        raw = values[:, :, 4 - width :]
    blocks = [dequantize_block(type_name, bytes(block)) for row in raw for block in row]
    expected = np.array(blocks).reshape(rows, -1)

    path = tmp_path / "one.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", np.ascontiguousarray(raw.reshape(rows, -1)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    found = read_tensor(read_gguf(path), "w")
    assert found.shape == (rows, blocks_in_row * block_size)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("type_name", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_a_model_stored_in_a_simple_type_stays_close_to_the_original(type_name: str, tmp_path: Path) -> None:
    model = tiny_model("llama")
    path = write_gguf(model, "llama", tmp_path / "model.gguf", kind=GGMLQuantizationType[type_name])
    reader = GGUFModelReader(path)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert reader.file.tensors[reader.stored_names[name]].type_name == type_name
    original = model.get_parameter(name).detach()
    error = (reader.read(name) - original).norm() / original.norm()
    assert error < {"F16": 1e-3, "BF16": 5e-3, "Q8_0": 0.01, "Q5_0": 0.06, "Q5_1": 0.05}.get(type_name, 0.13)


def test_the_tokenizer_comes_with_special_tokens_and_chat_template(tmp_path: Path) -> None:
    tokenizer = open_model(write_gguf(tiny_model("llama"), "llama", tmp_path / "model.gguf")).tokenizer()
    assert tokenizer is not None
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<bos>", "<eos>", "<pad>")
    assert tokenizer.decode(tokenizer("Grüße, 日本!").input_ids) == "Grüße, 日本!"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi<eos>"


def test_a_file_without_tokens_has_no_tokenizer(tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"), "llama", tmp_path / "model.gguf", tokenizer=False)
    assert open_model(path).tokenizer() is None


def test_an_unknown_tensor_is_refused_by_name(tmp_path: Path) -> None:
    extra = {"blk.0.ffn_gate_inp.weight": np.zeros((4, 64), np.float32)}
    path = write_gguf(tiny_model("llama"), "llama", tmp_path / "model.gguf", extra=extra)
    with pytest.raises(UnsupportedModelError, match="ffn_gate_inp"):
        open_model(path)


def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match=r"among llama.*got 'mamba'"):
        open_model(tmp_path / "m.gguf")


def test_metadata_that_contradict_the_tensors_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"), "llama", tmp_path / "model.gguf")
    changes = [(b"llama.block_count", 3), (b"llama.feed_forward_length", 97), (b"llama.block_count", 2**30)]
    changes += [(b"tokenizer.ggml.eos_token_id", 260), (b"llama.attention.head_count_kv", 0)]
    for key, value in changes:
        data = bytearray(path.read_bytes())
        place = data.index(key) + len(key) + 4
        data[place : place + 4] = value.to_bytes(4, "little")
        (tmp_path / "bad.gguf").write_bytes(data)
        with pytest.raises(CheckpointError):
            open_model(tmp_path / "bad.gguf")


@pytest.mark.slow
@pytest.mark.skipif("GOSSAMER_SMOLLM2" not in os.environ, reason="GOSSAMER_SMOLLM2 is not set")
def test_smollm2_reads_as_transformers_reads_it_and_speaks() -> None:
    path = Path(os.environ["GOSSAMER_SMOLLM2"])
    source = open_model(path)
    tokenizer = source.tokenizer()
    assert tokenizer is not None and "im_start" in tokenizer.chat_template
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    ours = source.load_dense()
    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ids = tokenizer("In 1984, George Orwell described", return_tensors="pt").input_ids
    with torch.no_grad():
        assert_equal(ours(ids).logits, theirs(ids).logits)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    prompt = tokenizer.apply_chat_template(chat, **options)
    answer = ours.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
