"""Runs from end to end: every architecture, what is written, and the time that is given."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import gossamer
from gossamer.checkpoint.source import open_model
from gossamer.compression.compress import with_training
from gossamer.errors import UsageError
from gossamer.recipe.reader import parse_recipe
from tests.compression.runs import AUTO_CLASSES, MAGNITUDE, dense_twin, file_hash, outputs, small_run
from tests.conftest import CALIBRATION, RECIPE, Case, read_tensors
from tests.models import KINDS, save_tiny, tiny_model


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_gives_the_logits_of_its_dense_twin(
    kind: str, compressed: Callable[[str], Case]
) -> None:
    case = compressed(kind)
    loaded = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(case.folder)
    expected = outputs(dense_twin(case), kind)
    scale = float(expected.abs().max())
    assert float((outputs(loaded, kind) - expected).abs().max()) <= 1e-3 * max(1.0, scale)
    assert float((outputs(tiny_model(kind), kind) - expected).abs().max()) > 0.01 * scale  # it did change
    packed = [name for name, module in loaded.named_modules() if "SparseLinear" in type(module).__name__]
    parts = open_model(case.parent).architecture
    assert set(packed) == {name for block in parts.blocks for name in parts.linears(block)} | {
        parts.output_head
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_bare_model_class_loads_too_with_names_without_the_prefix(
    kind: str, compressed, tmp_path: Path
) -> None:
    case = compressed(kind)
    bare = transformers.AutoModel.from_pretrained(case.folder)
    dense_twin(case).save_pretrained(tmp_path)
    twin = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(bare) is type(twin)
    assert not hasattr(bare, "lm_head")
    torch.testing.assert_close(outputs(bare, kind), outputs(twin, kind), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_half_of_every_linear_is_zero_and_the_manifest_says_so(kind: str, compressed) -> None:
    case = compressed(kind)
    parts = open_model(case.parent).architecture
    inside = {name for block in parts.blocks for name in parts.linears(block)}
    reported = {layer["name"]: layer for layer in case.manifest["layers"]}
    for name, packed in case.packed().items():
        weight_OI, mask_OI = packed.unpack(), packed.mask()
        half = weight_OI.numel() - round(0.5 * weight_OI.numel())
        assert int((~mask_OI).sum()) == (half if name in inside else 0)
        assert bool((weight_OI[~mask_OI] == 0).all())
        assert reported[name]["sparsity"] == pytest.approx(float((~mask_OI).float().mean()))
        assert reported[name]["bits"] == (4 if name in inside else 8)
        assert reported[name]["bytes"] == packed.num_bytes
    assert inside <= set(reported)
    assert [name for name in reported if name in inside] == [
        name for b in parts.blocks for name in parts.linears(b)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_selected_is_bit_identical_to_the_parent(kind: str, compressed) -> None:
    case = compressed(kind)
    before, after = read_tensors(case.parent), case.tensors()
    packed = {f"{name}.weight" for name in case.manifest["tensors"]}
    packed |= {f"{name}.weight" for name in case.manifest["tied"]}
    untouched = set(before) - packed
    assert untouched
    for name in untouched:
        assert torch.equal(before[name], after[name]), name
        assert before[name].dtype == after[name].dtype
    others = {name for name in after if name.rpartition(".")[0] not in case.manifest["tensors"]}
    state = set(tiny_model(kind).state_dict())
    assert others <= state


def test_two_runs_give_the_same_bytes(compressed, text: Path, tmp_path: Path) -> None:
    case = compressed("llama")
    again = gossamer.compress(case.parent, parse_recipe(RECIPE), out=tmp_path / "again", text=str(text))
    assert file_hash(again.folder) == file_hash(case.folder)
    same = ("tensors", "calibration", "tied", "recipe", "parent")
    assert {key: again.manifest[key] for key in same} == {key: case.manifest[key] for key in same}
    other = gossamer.compress(
        case.parent, parse_recipe(RECIPE), out=tmp_path / "other", text=str(text), seed=1
    )
    assert file_hash(other.folder) != file_hash(case.folder)
    assert other.manifest["calibration"]["fingerprint"] != case.manifest["calibration"]["fingerprint"]


def test_progress_is_told_in_order_and_to_the_end(parent, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    gossamer.compress(
        parent("llama"), parse_recipe(MAGNITUDE.format("sparsity: 0.5")), out=tmp_path / "out",
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    blocks = [(done, total) for what, done, total in told if what == "blocks"]
    assert blocks == [(0, 2), (1, 2), (2, 2)]
    assert told[-1] == ("loading the result as a check", 1, 1)


def test_the_parent_is_left_as_it_was(parent, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in parent("llama").iterdir()}
    small_run(parent("llama"), MAGNITUDE.format("sparsity: 0.5"), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in parent("llama").iterdir()} == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_parent_stays_in_its_type(dtype: torch.dtype, text: Path, tmp_path: Path) -> None:
    save_tiny("qwen3", tmp_path / "dense", dtype=dtype)
    manifest = small_run(tmp_path / "dense", RECIPE.replace("gptq", "rtn"), tmp_path / "out", text=str(text))
    before, after = read_tensors(tmp_path / "dense"), read_tensors(tmp_path / "out")
    norms = [name for name in before if "norm" in name]
    assert norms
    assert all(after[name].dtype == dtype and torch.equal(after[name], before[name]) for name in norms)
    assert manifest["reload_max_difference"] < 1e-3
    small_run(tmp_path / "dense", MAGNITUDE.format("sparsity: 0.5"), tmp_path / "float")
    assert read_tensors(tmp_path / "float")["model.layers.0.mlp.up_proj.values"].dtype == dtype


def test_the_folder_holds_what_a_user_needs_and_nothing_else(compressed) -> None:
    case = compressed("llama")
    assert {path.name for path in case.folder.iterdir()} == {
        "config.json", "generation_config.json", "gossamer.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    config = json.loads((case.folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["quantization_config"]["quant_method"] == "gossamer"
    assert set(config["quantization_config"]["modules"]) == set(case.manifest["tensors"])
    assert json.loads((case.folder / "gossamer.json").read_text()) == json.loads(json.dumps(case.manifest))


def test_the_manifest_tells_where_the_model_comes_from_and_what_was_done(compressed, text: Path) -> None:
    manifest = compressed("llama").manifest
    source = open_model(compressed("llama").parent)
    assert manifest["parent"]["sha256"] == source.fingerprint()
    assert manifest["parent"]["name"] == "tiny-llama"
    assert parse_recipe(manifest["recipe_yaml"]) == parse_recipe(RECIPE)
    assert manifest["calibration"]["source"] == text.name
    assert (manifest["calibration"]["num_samples"], manifest["calibration"]["length"]) == (4, 32)
    size = manifest["size"]
    stored = sum(tensor.nbytes for tensor in compressed("llama").tensors().values())
    assert size["weights_bytes"] == stored == sum(size["by_part"].values())
    assert sum(size["parent_by_part"].values()) == manifest["parent"]["bf16_bytes"]
    assert manifest["run"]["seconds"] > 0
    assert manifest["run"]["peak_memory_bytes"] > 1e6
    assert manifest["reload_max_difference"] < 1e-3


PRUNED_4_BITS = (
    "steps: [{layers: '*', method: wanda, sparsity: 0.5}, {layers: '*', method: gptq, group_size: 32}]"
)


@pytest.mark.parametrize(
    ("recipe", "methods"),
    [
        (PRUNED_4_BITS, ["wanda", "reconstruct", "gptq"]),
        ("steps: [{layers: '*', method: wanda, sparsity: 0.5}]", ["wanda", "reconstruct"]),
        ("steps: [{layers: '*', method: gptq}]", ["gptq"]),
        (
            "steps: [{layers: embeddings, method: rtn}, {layers: '*', method: wanda, sparsity: 0.5},"
            " {layers: '*', method: refit}]",
            ["rtn", "wanda", "refit", "reconstruct"],
        ),
        (
            "steps: [{layers: '*.mlp.*', method: rtn}, "
            "{layers: ['*.self_attn.*', head], method: wanda, sparsity: 0.5}]",
            ["rtn", "wanda", "reconstruct"],
        ),
        (
            "steps: [{layers: '*', method: wanda, sparsity: 0.5}, {layers: '*', method: reconstruct, epochs: 9}]",
            ["wanda", "reconstruct"],
        ),
    ],
)
def test_minutes_train_blocks_where_a_recipe_prunes(recipe: str, methods: list[str]) -> None:
    assert [step.method for step in with_training(parse_recipe(recipe), 1.0).steps] == methods
    assert with_training(parse_recipe(recipe), None) == parse_recipe(recipe)


def test_a_note_says_that_minutes_trained_nothing(parent, text: Path, tmp_path: Path) -> None:
    recipe = "steps: [{layers: '*', method: gptq, group_size: 32}]"
    manifest = small_run(
        parent("llama"), recipe, tmp_path / "out", minutes=1.0, text=str(text), **CALIBRATION
    )
    assert any("trained nothing" in note for note in manifest["notes"])


def test_blocks_are_trained_as_long_as_the_minutes_last(parent, text: Path, tmp_path: Path) -> None:
    given = {"text": str(text), "samples": 8, "length": 32}
    model = parent("llama")
    long = small_run(model, PRUNED_4_BITS, tmp_path / "long", minutes=5.0, **given)
    none = small_run(model, PRUNED_4_BITS, tmp_path / "none", minutes=1e-5, **given)
    assert [bool(block.get("reconstruction")) for block in long["blocks"]] == [True, True]
    assert [bool(block.get("reconstruction")) for block in none["blocks"]] == [False, False]
    assert long["run"]["minutes_given"] == 5.0
    assert "0 of 2 blocks were trained in the time that was given" in none["notes"]
    for layer in (*long["layers"], *none["layers"]):
        assert layer["sparsity"] == pytest.approx(0.5, abs=0.02)


def test_the_seconds_of_a_run_count_from_the_reading_of_its_text(parent, text: Path, tmp_path: Path) -> None:
    at: dict[tuple[str, int], float] = {}

    def noting(what: str, done: int, _total: int) -> None:
        at.setdefault((what, done), time.monotonic())

    manifest = small_run(
        parent("llama"), RECIPE, tmp_path / "out", text=str(text), progress=noting, **CALIBRATION
    )
    took = at["loading the result as a check", 1] - at["reading text", 0]
    assert manifest["run"]["seconds"] >= took


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_that_are_no_time_are_refused(minutes: float, parent, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="positive"):
        small_run(parent("llama"), PRUNED_4_BITS, tmp_path / "out", minutes=minutes)
