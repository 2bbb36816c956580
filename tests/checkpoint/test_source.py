import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from gossamer.checkpoint.plugin.quantizer import quantization_config
from gossamer.checkpoint.read import hub
from gossamer.checkpoint.source import open_model
from gossamer.checkpoint.summary import summarise
from gossamer.errors import CheckpointError, UnsupportedModelError
from gossamer.formats.choose import pack
from tests.models import KINDS, save_tiny, tiny_inputs, tiny_model


def anonymous_kib() -> int:
    """Memory of this process that no file backs."""
    lines = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )
    return int(lines["RssAnon"].split()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_opens_and_gives_the_same_logits(kind: str, tmp_path: Path) -> None:
    model = save_tiny(kind, tmp_path)
    source = open_model(str(tmp_path))
    assert (source.kind, source.auto_class_name) == ("safetensors", type(model).__name__)
    assert source.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert not source.model.training and source.unused_tensors == ()
    with torch.no_grad():
        expected = model(**tiny_inputs(kind)).logits
        torch.testing.assert_close(source.model(**tiny_inputs(kind)).logits, expected, rtol=0, atol=0)
        torch.testing.assert_close(source.load_dense()(**tiny_inputs(kind)).logits, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_put_together_from_materialised_blocks_runs_like_the_whole(kind: str, tmp_path: Path) -> None:
    save_tiny(kind, tmp_path)
    source = open_model(tmp_path)
    with torch.no_grad():
        expected = source.model(**tiny_inputs(kind)).logits
        for block in source.architecture.blocks:
            source.model.set_submodule(block, source.materialise(block))
        torch.testing.assert_close(source.model(**tiny_inputs(kind)).logits, expected, rtol=0, atol=0)


def test_the_stored_dtype_is_kept_and_blocks_materialise_in_float32(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path, dtype=torch.bfloat16, max_shard_size="60KB")
    source = open_model(tmp_path)
    assert {parameter.dtype for parameter in source.model.parameters()} == {torch.bfloat16}
    block = source.materialise("model.layers.0")
    assert {parameter.dtype for parameter in block.parameters()} == {torch.float32}
    expected = model.model.layers[0].mlp.up_proj.weight.float()
    torch.testing.assert_close(block.mlp.up_proj.weight, expected, rtol=0, atol=0)
    assert {p.dtype for p in source.load_dense(torch.float32).parameters()} == {torch.float32}
    assert {p.dtype for p in source.load_dense(torch.bfloat16).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in open_model(tmp_path, dtype=torch.float16).model.parameters()} == {torch.float16}


def test_changing_a_materialised_block_leaves_the_mapped_model_and_the_file_alone(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    source = open_model(tmp_path)
    before, name = source.fingerprint(), "model.layers.1"
    original = source.model.get_submodule(name)
    block = source.materialise(name)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    assert source.model.get_submodule(name) is original
    assert original.mlp.up_proj.weight.abs().sum() > 0
    source.model.set_submodule(name, block)
    fresh = source.materialise(name)
    torch.testing.assert_close(fresh.mlp.up_proj.weight, original.mlp.up_proj.weight, rtol=0, atol=0)
    source.release(name)
    assert source.model.get_submodule(name) is original
    assert source.fingerprint() == before


def test_blocks_share_the_config_instead_of_copying_it(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    source = open_model(tmp_path)
    assert source.materialise("model.layers.0").self_attn.config is source.model.config


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_opening_a_model_maps_the_weights_instead_of_reading_them(tmp_path: Path) -> None:
    # 32 MB of weights, in two large matrices; a first small model warms up what is allocated once
    save_tiny("llama", tmp_path / "small")
    assert open_model(tmp_path / "small").model is not None
    save_tiny("llama", tmp_path / "large", vocab_size=65_536)
    before = anonymous_kib()
    source = open_model(tmp_path / "large")
    model = source.model
    assert sum(p.nbytes for p in model.parameters()) > 32_000_000
    assert anonymous_kib() - before < 10_000
    weights = str(tmp_path / "large" / "model.safetensors")
    regions = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if weights in line]
    spans = [tuple(int(end, 16) for end in region[0].split("-")) for region in regions]
    for parameter in model.parameters():
        assert any(begin <= parameter.data_ptr() < end for begin, end in spans)


def test_size_and_fingerprint_are_those_of_the_files(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, max_shard_size="60KB")
    source = open_model(tmp_path)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert source.fingerprint() == hashlib.sha256(b"".join(s.read_bytes() for s in shards)).hexdigest()
    assert source.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(1000))
    (tmp_path / "README.md").write_text("not the model")
    assert open_model(tmp_path).size_bytes == source.size_bytes


def test_the_tokenizer_is_the_one_in_the_folder_or_none(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "with")
    tokenizer = open_model(tmp_path / "with").tokenizer()
    assert tokenizer is not None and tokenizer.decode(tokenizer("Ünïcode").input_ids) == "Ünïcode"
    tiny_model("llama").save_pretrained(tmp_path / "without")
    assert open_model(tmp_path / "without").tokenizer() is None


def test_a_folder_without_architectures_opens_as_the_causal_model_of_its_type(tmp_path: Path) -> None:
    model = save_tiny("gpt2", tmp_path)
    model.config.architectures = None
    model.config.save_pretrained(tmp_path)
    assert open_model(tmp_path).auto_class_name == "GPT2LMHeadModel"


def test_loading_is_silent_and_leaves_the_settings_of_the_user_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_tiny("llama", tmp_path)
    capfd.readouterr()
    transformers_logging.set_verbosity(logging.INFO)
    transformers_logging.enable_progress_bar()  # a command in another test may have turned it off
    try:
        assert open_model(tmp_path).model is not None
        assert transformers_logging.get_verbosity() == logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")


def test_a_hub_id_is_fetched_without_pickles_or_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny("llama", tmp_path / "cached")
    asked: dict[str, Any] = {}

    def snapshot_download(**options: Any) -> str:
        asked.update(options)
        return str(tmp_path / "cached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    assert open_model("owner/tiny").auto_class_name == "LlamaForCausalLM"
    assert asked["repo_id"] == "owner/tiny"
    fetched = list(
        huggingface_hub.utils.filter_repo_objects(
            ["model.safetensors", "config.json", "pytorch_model.bin", "modeling.py", "onnx/config.json"],
            allow_patterns=asked["allow_patterns"],
            ignore_patterns=asked["ignore_patterns"],
        )
    )
    assert fetched == ["model.safetensors", "config.json"]


def test_an_existing_path_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny("llama", tmp_path / "owner" / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "fetch", lambda _: pytest.fail("asked the hub"))
    assert open_model("owner/tiny").path == Path("owner/tiny")


def test_without_network_or_cache_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(**options: Any) -> str:
        if options.get("local_files_only"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=r"'owner/absent'.*no route to host.*no copy is cached"):
        open_model("owner/absent")


def save_packed(folder: Path) -> tuple[torch.Tensor, int]:
    """Write a tiny Llama with one packed linear; return (its unpacked weight_OI, bytes of the packed tensors)."""
    model = save_tiny("llama", folder)
    name = "model.layers.1.mlp.up_proj"
    weight_OI = model.get_submodule(name).weight.detach().clone()
    packed = pack(weight_OI, weight_OI.abs() > weight_OI.abs().median(), None, float_dtype=torch.float16)
    tensors = model.state_dict()
    del tensors[f"{name}.weight"]
    tensors |= {f"{name}.{key}": tensor for key, tensor in packed.tensors().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization_config({name: packed.meta()}, {})
    (folder / "config.json").write_text(json.dumps(config))
    return packed.unpack(), packed.num_bytes


def test_a_compressed_folder_opens_with_its_packed_modules(tmp_path: Path) -> None:
    weight_OI, num_bytes = save_packed(tmp_path)
    source = open_model(tmp_path)
    assert (source.kind, source.auto_class_name) == ("gossamer", "LlamaForCausalLM")
    assert source.num_parameters == sum(p.numel() for p in tiny_model("llama").parameters())
    assert "model.layers.1.mlp.up_proj" in source.architecture.all_linears
    x_TI = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    found = source.model.model.layers[1].mlp.up_proj(x_TI)
    torch.testing.assert_close(found, x_TI @ weight_OI.T, rtol=1e-4, atol=1e-5)
    (matrix,) = (m for m in summarise(source).matrices if m.name == "model.layers.1.mlp.up_proj")
    assert (matrix.format, matrix.size_bytes, matrix.sparsity) == ("bitmask float16", num_bytes, 0.5)


def test_a_compressed_folder_that_lacks_a_packed_tensor_is_refused(tmp_path: Path) -> None:
    save_packed(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.mask"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"up_proj\.mask"):
        open_model(tmp_path).model  # noqa: B018


@pytest.mark.slow
@pytest.mark.skipif("GOSSAMER_MINILM" not in os.environ, reason="GOSSAMER_MINILM is not set")
def test_minilm_opens_without_being_read_and_embeds_sentences() -> None:
    before = anonymous_kib()
    source = open_model(os.environ["GOSSAMER_MINILM"])
    assert source.architecture.stacks == (tuple(f"encoder.layer.{i}" for i in range(6)),)
    assert source.model is not None and anonymous_kib() - before < 30_000
    tokenizer = source.tokenizer()
    assert tokenizer is not None
    batch = tokenizer(["A cat sits.", "A kitten rests.", "Stocks fell."], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden_BTH = source.model(**batch).last_hidden_state
        expected = transformers.BertModel.from_pretrained(source.path)(**batch).last_hidden_state
    torch.testing.assert_close(hidden_BTH, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_codes_whose_scales_are_kept_elsewhere_are_not_taken_for_weights(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    save_tiny("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=name):
        open_model(tmp_path)
