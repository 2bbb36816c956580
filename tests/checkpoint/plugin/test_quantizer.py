"""What transformers makes of a compressed folder: packed modules, checked declarations, and no surprises."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import gossamer
from gossamer.checkpoint.plugin.quantizer import GossamerConfig, quantization_config, register
from gossamer.checkpoint.source import open_model
from gossamer.errors import CheckpointError, GossamerError
from gossamer.layers.embedding import PackedEmbedding
from gossamer.layers.linear import SparseLinear
from tests.conftest import Case
from tests.models import tiny_inputs

QUERY = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(compressed: Callable[[str], Case], tmp_path: Path) -> Path:
    """A compressed folder that may be damaged."""
    return Path(shutil.copytree(compressed("llama").folder, tmp_path / "out"))


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    result = change(config["quantization_config"])
    if result is not None:
        config["quantization_config"] = result
    path.write_text(json.dumps(config))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_linears_embedding_and_head_are_packed_and_norms_are_not(compressed) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(compressed("llama").folder)
    assert isinstance(model.get_submodule(QUERY), SparseLinear)
    assert isinstance(model.model.embed_tokens, PackedEmbedding)
    assert isinstance(model.lm_head, SparseLinear)
    assert type(model.model.norm).__name__ == "LlamaRMSNorm"
    assert not model.training
    assert all(not parameter.is_meta for parameter in model.parameters())
    assert all(not buffer.is_meta for buffer in model.buffers())


@pytest.mark.parametrize("kind", ["qwen2", "gpt2", "bert", "t5"])
def test_a_tied_head_shares_the_tensors_of_the_embedding(kind: str, compressed) -> None:
    model = open_model(compressed(kind).folder).model
    head = model.get_output_embeddings()
    assert isinstance(head, SparseLinear)
    assert head.weight_source() is model.get_input_embeddings()
    assert not head.packed_tensors()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_tensors_keep_their_types_whatever_type_the_model_gets(dtype: torch.dtype, compressed) -> None:
    case = compressed("llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(case.folder, dtype=dtype)
    stored = case.tensors()
    for name, tensor in model.get_submodule(QUERY).packed_tensors().items():
        assert tensor.dtype == stored[f"{QUERY}.{name}"].dtype
        assert torch.equal(tensor, stored[f"{QUERY}.{name}"])
    assert model.model.norm.weight.dtype == dtype
    with torch.inference_mode():
        assert bool(torch.isfinite(model(**tiny_inputs("llama")).logits).all())


def test_registering_twice_is_harmless_and_the_config_survives_json() -> None:
    register()
    register()
    declared = quantization_config({"a": {"format": "dense"}}, {"b": "a"})
    config = GossamerConfig(**json.loads(json.dumps(declared)))
    assert (config.modules, config.tied) == ({"a": {"format": "dense"}}, {"b": "a"})


def test_saving_a_loaded_model_again_is_refused_by_transformers(compressed, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(compressed("llama").folder)
    with pytest.raises(ValueError, match="gossamer"):
        model.save_pretrained(tmp_path / "again")


# ---- declarations that lie --------------------------------------------------------------------------------


def edit(name: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["modules"][name].update(values)


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "modules are a list": lambda config: config.update(modules=[1]),
    "modules are missing": lambda config: config.pop("modules"),
    "a module is a number": lambda config: config["modules"].update({QUERY: 3}),
    "tied is a list": lambda config: config.update(tied=["lm_head"]),
    "tied to a linear": lambda config: config.update(tied={"lm_head": QUERY}),
    "newer version": lambda config: config.update(format_version=99),
    "unknown format": edit(QUERY, format="zip"),
    "no format": lambda config: config["modules"][QUERY].pop("format"),
    "wrong shape": edit(QUERY, shape=[64, 128]),
    "absurd shape": edit(QUERY, shape=[10**12, 10**12]),
    "negative shape": edit(QUERY, shape=[-64, 64]),
    "shape of words": edit(QUERY, shape="wide"),
    "embedding of wrong shape": edit("model.embed_tokens", shape=[10, 64]),
    "embedding without shape": lambda config: config["modules"]["model.embed_tokens"].pop("shape"),
    "wrong bits": edit(QUERY, bits=8),
    "absurd bits": edit(QUERY, bits=10**9),
    "wrong group": edit(QUERY, group_size=48),
    "too many values": edit(QUERY, num_values=10**15),
    "too few values": edit(QUERY, num_values=1),
    "module missing": lambda config: config["modules"].pop(QUERY),
    "a block declared": lambda config: config["modules"].update({"model.layers.0": config["modules"][QUERY]}),
    "a norm declared": lambda config: config["modules"].update({"model.norm": config["modules"][QUERY]}),
    "not a table": lambda config: "gossamer",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_declaration_that_lies_is_one_of_our_errors(lie: str, folder: Path) -> None:
    change_config(folder, LIES[lie])
    with pytest.raises(GossamerError) as caught:
        gossamer.load(folder)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("part", ["values", "mask", "offsets", "scale"])
def test_a_missing_packed_tensor_is_an_error(part: str, folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop(f"{QUERY}.{part}"))
    with pytest.raises(CheckpointError, match=QUERY.replace(".", r"\.")):
        gossamer.load(folder)


@pytest.mark.parametrize("part", ["values", "mask", "offsets", "scale"])
def test_a_packed_tensor_of_another_shape_or_type_is_an_error(part: str, folder: Path) -> None:
    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{QUERY}.{part}"] = tensors[f"{QUERY}.{part}"][:-1].clone()

    change_tensors(folder, shorten)
    with pytest.raises(GossamerError):
        gossamer.load(folder)


@pytest.mark.parametrize("part", ["mask", "offsets", "scale"])
def test_packed_tensors_that_contradict_each_other_never_reach_native_code(part: str, folder: Path) -> None:
    def garble(tensors: dict[str, torch.Tensor]) -> None:
        tensor = tensors[f"{QUERY}.{part}"]
        tensor.fill_(float("nan") if tensor.is_floating_point() else 2**62)

    change_tensors(folder, garble)
    with pytest.raises(GossamerError):
        gossamer.load(folder).model(**tiny_inputs("llama"))


def test_a_folder_that_was_renamed_and_copied_still_loads(folder: Path) -> None:
    before = copy.deepcopy(dict(open_model(folder).model.state_dict()))
    after = open_model(folder.rename(folder.parent / "other name")).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
