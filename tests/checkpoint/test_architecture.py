import pytest
import torch
from torch import nn

from gossamer.checkpoint.architecture import describe
from gossamer.errors import UnsupportedModelError
from tests.models import KINDS, tiny_config, tiny_experts, tiny_model

LINEARS_IN_BLOCK = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma3"), 7),
    "gpt2": 4,
    "opt": 6,
    "bert": 6,
    "roberta": 6,
}
PREFIX = {"gpt2": "transformer.h.", "opt": "model.decoder.layers.", "bert": "bert.encoder.layer."}
UNTIED = ("llama", "mistral")


@pytest.mark.parametrize("kind", LINEARS_IN_BLOCK)
def test_one_stack_of_two_blocks_is_found_with_all_its_linears(kind: str) -> None:
    found = describe(tiny_model(kind))
    prefix = PREFIX.get(kind, "roberta.encoder.layer." if kind == "roberta" else "model.layers.")
    assert found.stacks == ((f"{prefix}0", f"{prefix}1"),)
    for block in found.blocks:
        assert len(found.linears(block)) == LINEARS_IN_BLOCK[kind]
        assert all(name.startswith(block + ".") for name in found.linears(block))
    assert found.model_type in (kind, f"{kind}_text")


def test_t5_and_whisper_have_an_encoder_and_a_decoder_in_this_order() -> None:
    t5 = describe(tiny_model("t5"))
    assert t5.stacks == (("encoder.block.0", "encoder.block.1"), ("decoder.block.0", "decoder.block.1"))
    assert [len(t5.linears(block)) for block in t5.blocks] == [6, 6, 10, 10]
    whisper = describe(tiny_model("whisper"))
    assert whisper.stacks[0] == ("model.encoder.layers.0", "model.encoder.layers.1")
    assert whisper.stacks[1] == ("model.decoder.layers.0", "model.decoder.layers.1")
    assert [len(whisper.linears(block)) for block in whisper.blocks] == [6, 6, 10, 10]
    assert whisper.output_head == "proj_out"


@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_of_the_model_is_listed_exactly_once(kind: str) -> None:
    model = tiny_model(kind)
    found = describe(model)
    expected = {n for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D")}
    assert set(found.all_linears) == expected
    assert len(found.all_linears) == len(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_meta_device_gives_the_same_description(kind: str) -> None:
    model = tiny_model(kind)
    with torch.device("meta"):
        skeleton = type(model)(tiny_config(kind))
    assert describe(skeleton) == describe(model)


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_head_and_ties_are_what_the_model_uses(kind: str) -> None:
    model = tiny_model(kind)
    found = describe(model)
    assert found.token_embedding is not None and found.output_head is not None
    assert found.token_embedding in found.embeddings
    embedding = model.get_submodule(found.token_embedding).weight
    head = model.get_submodule(found.output_head).weight
    assert (head is embedding) == (kind not in UNTIED)
    for copy, original in found.tied:
        assert model.get_parameter(copy) is model.get_parameter(original)
    assert (f"{found.output_head}.weight" in dict(found.tied)) == (kind not in UNTIED)


def test_norms_and_other_linears_are_found() -> None:
    bert = describe(tiny_model("bert"))
    assert bert.other_linears == ("cls.predictions.transform.dense",)
    assert bert.output_head == "cls.predictions.decoder"
    assert "bert.embeddings.LayerNorm" in bert.norms
    llama = describe(tiny_model("llama"))
    assert llama.norms[-1] == "model.norm" and len(llama.norms) == 5


def test_a_conv1d_has_the_shape_of_the_linear_that_it_computes() -> None:
    found = describe(tiny_model("gpt2"))
    assert found.matrix("transformer.h.0.attn.c_attn").shape == (192, 64)
    assert found.matrix("lm_head").shape == (260, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_and_every_embedding_has_a_handle(kind: str) -> None:
    found = describe(tiny_model(kind))
    assert {*found.all_linears, *found.embeddings} <= set(found.matrices)
    assert all(name == matrix.name for name, matrix in found.matrices.items())
    assert not any(found.block_experts.values())


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_and_others_are_all_weights_of_a_block(kind: str) -> None:
    model = tiny_model(kind)
    found = describe(model)
    for block in found.blocks:
        held = [found.matrix(name).parameter for name in found.linears(block)]
        weights = [name for name, each in model.named_parameters() if each.ndim > 1]
        expected = {name for name in weights if name.startswith(f"{block}.")}
        assert {*held, *found.block_others[block]} == expected


def test_the_experts_of_a_block_are_listed_one_by_one_and_the_router_apart() -> None:
    found = describe(tiny_experts("qwen3_moe"))
    block = "model.layers.1"
    assert found.linears(block) == tuple(f"{block}.self_attn.{kind}_proj" for kind in "qkvo")
    assert found.block_experts[block] == tuple(
        f"{block}.mlp.experts.{expert}.{kind}"
        for expert in range(4)
        for kind in ("gate_up_proj", "down_proj")
    )
    assert found.block_others[block] == {f"{block}.mlp.gate.weight": (4, 64)}


def test_a_name_that_is_no_known_matrix_is_refused() -> None:
    found = describe(tiny_experts("qwen3_moe"))
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.0\.mlp\.gate: expected a linear"):
        found.matrix("model.layers.0.mlp.gate")


def test_experts_inside_a_block_are_no_stack() -> None:
    class Expert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64)

    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp = nn.ModuleList([Expert(), Expert()])
    found = describe(model)
    assert found.stacks == (("model.layers.0", "model.layers.1"),)
    assert len(found.linears("model.layers.0")) == 8
    assert "model.layers.0.mlp.1.down" in found.linears("model.layers.0")


def test_a_list_of_plain_linears_is_no_stack() -> None:
    model = tiny_model("llama")
    model.heads = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)])
    found = describe(model)
    assert found.stacks == (("model.layers.0", "model.layers.1"),)
    assert found.other_linears == ("heads.0", "heads.1")


def test_a_model_without_blocks_is_refused() -> None:
    model = tiny_model("llama")
    model.model.layers = nn.ModuleList()
    with pytest.raises(UnsupportedModelError, match="ModuleList"):
        describe(model)
