"""What a recipe means for a model: the choice of layers, the mistakes found early, the sizes foretold."""

from pathlib import Path

import pytest
import torch

import gossamer
from gossamer.checkpoint.source import open_model
from gossamer.compression import compress as compression
from gossamer.compression import job
from gossamer.compression.preview import predicted_bytes, preview_of
from gossamer.compression.selection import head_is_tied, select
from gossamer.errors import RecipeError, UsageError
from gossamer.recipe.reader import load_recipe, parse_recipe
from tests.models import KINDS

RTN = (
    "steps: [{layers: '*', method: rtn, group_size: 32}, {layers: [embeddings, head], method: rtn, bits: 8}]"
)


# ---- choosing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_star_means_every_linear_of_every_block_and_words_the_rest(kind: str, parent) -> None:
    source = open_model(parent(kind))
    parts = source.architecture
    selection = select(source, parse_recipe(RTN.replace("bits: 8", "bits: 8, group_size: 32")))
    inside = [name for block in parts.blocks for name in parts.linears(block)]
    assert list(selection.linears) == inside
    assert selection.embedding
    assert bool(selection.head) == (not head_is_tied(source))


def test_a_tied_head_follows_the_embedding_whichever_of_them_is_named(parent) -> None:
    source = open_model(parent("qwen2"))
    assert head_is_tied(source)
    for layers in ("embeddings", "head"):
        selection = select(source, parse_recipe(f"steps: [{{layers: {layers}, method: rtn, bits: 8}}]"))
        assert selection.embedding
        assert not selection.head
    untied = open_model(parent("llama"))
    assert not head_is_tied(untied)
    selection = select(untied, parse_recipe("steps: [{layers: head, method: rtn, bits: 8}]"))
    assert selection.head
    assert not selection.embedding


def test_layers_narrows_the_recipe_further(parent) -> None:
    source = open_model(parent("llama"))
    selection = select(
        source, parse_recipe(RTN.replace("group_size: 32", "group_size: null")), "*.0.self_attn.*"
    )
    assert list(selection.linears) == [f"model.layers.0.self_attn.{x}_proj" for x in "qkvo"]
    assert not selection.embedding
    assert not selection.head


# ---- mistakes, found before any work ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("steps: [{layers: '*.nothing', method: rtn}]", ["no layer", "model.layers.0.self_attn.q_proj"]),
        ("steps: [{method: rtn, group_size: 64}]", ["down_proj", "group_size 64", "96", "[32, 96]"]),
        ("steps: [{method: rtn, group_size: 32}, {method: gptq, group_size: 32}]", ["quantize once"]),
        ("steps: [{method: rtn, group_size: 32}, {method: wanda}]", ["rtn, wanda", "prune first"]),
        ("steps: [{layers: embeddings, method: gptq}]", ["model.embed_tokens", "gptq", "rtn"]),
        ("steps: [{layers: embeddings, method: magnitude}]", ["model.embed_tokens", "magnitude", "rtn"]),
        ("steps: [{method: wanda}, {method: magnitude, scope: global}]", ["scope global", "first"]),
        ("steps: [{method: eora}, {method: wanda}]", ["eora, wanda", "comes last"]),
        ("steps: [{method: wanda}, {method: eora}, {method: eora}]", ["comes last, and once"]),
        ("steps: [{method: svd}, {method: gptq, group_size: 32}]", ["svd, gptq", "alone"]),
        ("steps: [{layers: embeddings, method: svd}]", ["model.embed_tokens", "svd", "rtn"]),
        ("steps: [{layers: embeddings, method: rtn}, {layers: embeddings, method: eora}]", ["embed_tokens", "eora"]),
    ],
)  # fmt: skip
def test_an_impossible_recipe_is_refused_before_any_work(
    recipe: str, words: list[str], parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: object) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(job, "calibration_samples", never)
    for attempt in (
        lambda: compression.preview(parent("llama"), parse_recipe(recipe)),
        lambda: gossamer.compress(parent("llama"), parse_recipe(recipe), out=tmp_path / "out", text="x"),
    ):
        with pytest.raises(RecipeError) as caught:
            attempt()
        for word in words:
            assert word in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_layers_that_match_nothing_are_named(parent) -> None:
    with pytest.raises(RecipeError, match=r"--layers 'decoder\.\*'"):
        compression.preview(
            parent("llama"), parse_recipe(RTN.replace("bits: 8", "group_size: null")), layers="decoder.*"
        )


def test_a_compressed_model_is_not_compressed_again(compressed) -> None:
    with pytest.raises(UsageError, match="compressed already"):
        compression.preview(compressed("llama").folder, "int8")


def test_calibration_settings_out_of_range_are_refused(parent) -> None:
    for settings in ({"samples": 0}, {"length": 7}, {"samples": -3}):
        with pytest.raises(UsageError, match=f"--{next(iter(settings))}"):
            compression.preview(parent("llama"), "int8", **settings)


# ---- sizes ------------------------------------------------------------------------------------------------

PRUNE = {
    "half": "{layers: '*', method: magnitude, sparsity: 0.5}",
    "most": "{layers: '*', method: magnitude, sparsity: 0.8}",
    "row": "{layers: '*', method: magnitude, pattern: row}",
    "2:4": "{layers: '*', method: magnitude, pattern: '2:4'}",
    "8:16": "{layers: '*', method: magnitude, pattern: '8:16'}",
    "4:16": "{layers: '*', method: magnitude, pattern: '4:16'}",
    "block": "{layers: '*', method: magnitude, pattern: block 4x16}",
    "global": "{layers: '*', method: magnitude, scope: global}",
    "twice": "{layers: '*', method: magnitude, sparsity: 0.3}, {layers: '*', method: magnitude, sparsity: 0.5}",
}
QUANTIZE = {
    "int4": "{layers: '*', method: rtn, bits: 4, group_size: 32}",
    "int3": "{layers: '*', method: rtn, bits: 3, group_size: 32}",
    "int8": "{layers: '*', method: rtn, bits: 8, group_size: null}",
    "minimum": "{layers: '*', method: rtn, bits: 4, group_size: 32, symmetric: false}",
    "all": "{layers: '*', method: rtn, group_size: 32}, {layers: [embeddings, head], method: rtn, bits: 8}",
}


PAIRS = [
    *[("", quantize) for quantize in QUANTIZE],
    *[(prune, "") for prune in ("half", "2:4", "8:16", "block", "twice")],
    *[(prune, "int4") for prune in ("half", "most", "row", "2:4", "4:16", "global")],
    *[("half", "int3"), ("8:16", "int8"), ("4:16", "minimum"), ("half", "all")],
]


@pytest.mark.parametrize(("prune", "quantize"), PAIRS)
def test_the_predicted_size_is_within_two_percent(prune: str, quantize: str, tmp_path: Path, parent) -> None:
    steps = ", ".join(each for each in (PRUNE.get(prune), QUANTIZE.get(quantize)) if each)
    recipe = parse_recipe(f"steps: [{steps}]")
    foretold = compression.preview(parent("llama"), recipe)
    made = gossamer.compress(parent("llama"), recipe, out=tmp_path / "out")
    assert list(foretold.layers) == [layer["name"] for layer in made.manifest["layers"]] or quantize == "all"
    assert foretold.predicted_bytes == pytest.approx(made.manifest["size"]["weights_bytes"], rel=0.02)


LOW_RANK = [
    "{method: svd, rank_share: 0.3}",
    "{method: oats, rank: 5, iterations: 2}",
    "{method: basil, rank: 5, iterations: 2}, {method: rtn, group_size: 32}",
    "{method: basil, rank: 5, pattern: '8:16', iterations: 2}, {method: rtn, bits: 8, group_size: 32}",
    "{method: rtn, group_size: 32}, {method: eora, rank: 9}",
    "{method: basil, rank: 5, iterations: 2}, {method: rtn, group_size: 32}, {method: eora, rank: 9}",
]


@pytest.mark.parametrize("steps", LOW_RANK)
def test_the_predicted_size_counts_low_rank_parts(steps: str, tmp_path: Path, parent, text: Path) -> None:
    recipe = parse_recipe(f"calibration: {{samples: 2, length: 32}}\nsteps: [{steps}]")
    foretold = compression.preview(parent("llama"), recipe)
    made = gossamer.compress(parent("llama"), recipe, out=tmp_path / "out", text=str(text))
    assert foretold.predicted_bytes == pytest.approx(made.manifest["size"]["weights_bytes"], rel=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_matrix_of_real_size_takes_what_the_arithmetic_says(dtype: torch.dtype) -> None:
    steps = load_recipe("sparse50-int4").steps
    both, head = steps[:2], steps[2:]
    weights = 1536 * 576
    assert predicted_bytes((1536, 576), (), dtype) == weights * dtype.itemsize
    assert predicted_bytes((1536, 576), both, dtype) == pytest.approx(
        weights * (1 / 8 + 4.5 / 16 + 2 / 64), rel=0.003
    )
    assert predicted_bytes((1536, 576), head, dtype) == pytest.approx(weights * (6 / 8 + 2 / 32), rel=0.003)
    kept = weights * (1 / 8 + dtype.itemsize / 2)
    assert predicted_bytes((1536, 576), both[:1], dtype) == pytest.approx(kept, rel=0.003)


def test_a_plan_tells_in_json_what_would_be_done(parent) -> None:
    told = preview_of(
        open_model(parent("llama")), parse_recipe(RTN.replace("bits: 8", "group_size: null"))
    ).to_dict()
    assert told["num_linears"] == 15
    assert told["layers"]["lm_head"] == [
        {"layers": ["embeddings", "head"], "method": "rtn", "group_size": None}
    ]
    assert told["parent_bf16_bytes"] == 2 * open_model(parent("llama")).num_parameters
    assert told["memory_bytes"] > told["predicted_bytes"]
    assert told["disk_bytes"] == 2 * told["predicted_bytes"]
