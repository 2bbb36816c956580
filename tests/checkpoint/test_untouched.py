"""What stays dense in the blocks of a model is counted, and said."""

import json
from pathlib import Path

import pytest
import torch

import gossamer
from gossamer.checkpoint.architecture import describe
from gossamer.checkpoint.summary import inspect
from gossamer.checkpoint.untouched import untouched
from gossamer.compression.compress import preview
from gossamer.errors import RecipeError
from gossamer.recipe.reader import parse_recipe
from tests.models import tiny_experts, tiny_model, tiny_tokenizer

ATTENTION = 64 * 64 + 2 * 32 * 64 + 64 * 64
"""Weights of the query, the keys and values, and the output of one block."""
EXPERTS = 4 * (2 * 48 * 64 + 64 * 48)
ROUTER = 4 * 64
SHARE = (EXPERTS + ROUTER) / (ATTENTION + EXPERTS + ROUTER)
HALF = "steps: [{layers: '*', method: magnitude, sparsity: 0.5}]"


@pytest.fixture
def experts(tmp_path: Path) -> Path:
    folder = tmp_path / "parent"
    tiny_experts("qwen3_moe").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_experts_and_routers_are_counted_beside_the_linears() -> None:
    found = untouched(describe(tiny_experts("qwen3_moe")))
    assert found.block_weights == 2 * (ATTENTION + EXPERTS + ROUTER) == 2 * (12_288 + 36_864 + 256)
    assert (found.expert_matrices, found.expert_weights) == (2 * 4 * 2, 2 * EXPERTS)
    assert (found.other_parameters, found.other_weights) == (
        ("model.layers.0.mlp.gate.weight", "model.layers.1.mlp.gate.weight"),
        2 * ROUTER,
    )
    assert found.share == pytest.approx(SHARE) == pytest.approx(37_120 / 49_408)
    (note,) = found.notes
    assert note.startswith("NOT COMPRESSED: 75.1% of the weights of the blocks")
    assert "16 matrices of experts, which lie together in model.layers.0.mlp.experts.gate_up_proj" in note
    assert "2 parameters that are no linear, model.layers.0.mlp.gate.weight and 1 more: 512" in note


def test_experts_that_may_be_held_either_way_are_counted_among_the_others() -> None:
    model = tiny_experts("llama4", intermediate_size=64)  # a square matrix, and the class says nothing
    found = untouched(describe(model))
    assert found.expert_matrices == 0
    assert "model.layers.0.feed_forward.experts.down_proj" in found.other_parameters
    assert found.share == pytest.approx(
        1 - sum(m.numel for n, m in describe(model).matrices.items() if "layers" in n) / found.block_weights
    )


def test_nothing_is_said_of_blocks_that_are_made_of_linears() -> None:
    found = untouched(describe(tiny_model("llama")))
    assert found.share == 0.0 and found.notes == []
    assert found.block_weights == 2 * (ATTENTION + 3 * 96 * 64)


def test_the_table_of_positions_of_t5_is_no_linear() -> None:
    found = untouched(describe(tiny_model("t5")))
    assert all(name.endswith("relative_attention_bias.weight") for name in found.other_parameters)
    assert len(found.other_parameters) == 2 and found.expert_matrices == 0


def test_inspect_counts_zeros_over_all_weights_of_the_blocks(tmp_path: Path) -> None:
    model = tiny_experts("qwen3_moe")
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj[1] = 0.0
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[1].mlp.gate.weight.zero_()
    model.save_pretrained(tmp_path)
    summary = inspect(tmp_path)
    zeros = 64 * 48 + 64 * 64 + ROUTER
    assert summary.sparsity == pytest.approx(zeros / (2 * (ATTENTION + EXPERTS + ROUTER)))
    others = {each.name: each for each in summary.others}
    down = others["model.layers.0.mlp.experts.down_proj"]
    assert (down.shape, down.expert_matrices, down.parameters) == ((4, 64, 48), 4, 4 * 64 * 48)
    assert down.sparsity == 0.25
    assert others["model.layers.1.mlp.gate.weight"].sparsity == 1.0
    told = json.loads(json.dumps(summary.to_dict()))
    assert told["untouched"]["share"] == pytest.approx(SHARE)
    assert told["notes"] == summary.untouched.notes != []


def test_the_plan_says_what_stays_dense(experts: Path) -> None:
    told = preview(experts, parse_recipe(HALF)).to_dict()
    assert told["untouched"]["share"] == pytest.approx(SHARE)
    assert told["notes"][0].startswith("NOT COMPRESSED: 75.1%")


def test_a_run_says_first_and_last_what_stays_dense(experts: Path, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    recipe = parse_recipe(HALF)
    made = gossamer.compress(
        experts, recipe, out=tmp_path / "small", progress=lambda *each: said.append(each)
    )
    assert said[0][0].startswith("NOT COMPRESSED: 75.1%") and said[0][2] == 0
    assert made.manifest["notes"][0] == said[0][0]
    assert made.manifest["untouched"]["expert_weights"] == 2 * EXPERTS
    assert made.manifest["block_sparsity"] == pytest.approx(0.5 * (1 - SHARE))
    assert inspect(tmp_path / "small").sparsity == pytest.approx(0.5 * (1 - SHARE), abs=1e-4)


def test_a_recipe_for_experts_alone_is_refused_and_says_why(experts: Path) -> None:
    with pytest.raises(RecipeError, match=r"no layer of .* NOT COMPRESSED: 75\.1%"):
        preview(experts, parse_recipe(HALF.replace("'*'", "'*.mlp.*'")))


def test_the_memory_of_a_run_counts_the_experts_of_a_block(experts: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    tiny_experts("qwen3_moe", moe_intermediate_size=96).save_pretrained(wide)
    recipe = parse_recipe(HALF)
    assert preview(wide, recipe).memory_bytes - preview(experts, recipe).memory_bytes == 4 * EXPERTS
