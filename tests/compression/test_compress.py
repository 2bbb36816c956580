"""The loop from end to end: every architecture, every pattern, and what must never be written."""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

import gossamer
from gossamer.checkpoint.source import open_model
from gossamer.checkpoint.write import writer
from gossamer.compression import stages
from gossamer.compression.compress import with_training
from gossamer.compression.windows import calibration_samples, with_calibration
from gossamer.errors import CalibrationError, CheckpointError, DataError, RecipeError, RunError, UsageError
from gossamer.formats.low_rank import LowRankWeight, residual_mask
from gossamer.recipe.reader import parse_recipe
from tests.conftest import CALIBRATION, RECIPE, Case, read_packed, read_tensors
from tests.models import CAUSAL_KINDS, KINDS, save_tiny, tiny_inputs, tiny_model

AUTO_CLASSES = {
    **dict.fromkeys(CAUSAL_KINDS, "AutoModelForCausalLM"),
    "bert": "AutoModelForMaskedLM",
    "roberta": "AutoModelForMaskedLM",
    "t5": "AutoModelForSeq2SeqLM",
    "whisper": "AutoModelForSpeechSeq2Seq",
}
MAGNITUDE = "steps: [{{layers: '*', method: magnitude, {}}}]"


def small_run(parent: Path, recipe: str, out: Path, **settings: Any) -> dict[str, Any]:
    return gossamer.compress(parent, parse_recipe(recipe), out=out, **settings).manifest


def dense_twin(case: Case) -> transformers.PreTrainedModel:
    """The parent, with each packed weight put where the dense one was: plain torch, no code of the loader."""
    model = tiny_model(case.kind)
    with torch.no_grad():
        for name, packed in case.packed().items():
            module = model.get_submodule(name)
            weight_OI = packed.unpack()
            module.weight.copy_(weight_OI.T if isinstance(module, Conv1D) else weight_OI)
    return model


def outputs(model: transformers.PreTrainedModel, kind: str) -> Tensor:
    with torch.inference_mode():
        result = model(**tiny_inputs(kind, length=24, seed=5))
    return result.logits if hasattr(result, "logits") else result[0]


# ---- every architecture -----------------------------------------------------------------------------------


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


# ---- sparsity, exactly as asked ---------------------------------------------------------------------------

PATTERNS = {
    "sparsity: 0.5": 0.5, "sparsity: 0.7": 0.7, "sparsity: 0.6, pattern: row": 0.6, "pattern: '2:4'": 0.5,
    "pattern: '4:8'": 0.5, "pattern: '8:16'": 0.5, "pattern: '4:16'": 0.75, "sparsity: 0.5, pattern: block 4x8": 0.5,
}  # fmt: skip


def check_pattern(mask_OI: Tensor, setting: str, share: float) -> None:
    rows, columns = mask_OI.shape
    if "row" in setting:
        assert bool((mask_OI.sum(1) == round((1 - share) * columns)).all())
    elif "pattern: '" in setting:
        n, m = (int(number) for number in setting.rpartition("'")[0].rpartition("'")[2].split(":"))
        assert bool((mask_OI.view(rows, columns // m, m).sum(2) == n).all())
    elif "block" in setting:
        cells = mask_OI.view(rows // 4, 4, columns // 8, 8).sum((1, 3))
        assert bool(((cells == 0) | (cells == 32)).all())
        assert int((cells == 32).sum()) == round((1 - share) * cells.numel())
    else:
        assert int(mask_OI.sum()) == round((1 - share) * rows * columns)


@pytest.mark.parametrize("setting", PATTERNS)
@pytest.mark.parametrize("quantize", ["", ", {layers: '*', method: gptq, bits: 4, group_size: 32}"])
def test_masks_are_exactly_what_was_asked_and_chains_keep_them(
    setting: str, quantize: str, parent, text: Path, tmp_path: Path
) -> None:
    given = {"text": str(text), **CALIBRATION}
    recipe = f"steps: [{{layers: '*.0.*', method: sparsegpt, {setting}}}{quantize.replace('*', '*.0.*')}]"
    manifest = small_run(parent("llama"), recipe, tmp_path / "out", **given)
    packed = read_packed(tmp_path / "out", manifest)
    assert len(packed) == 7
    for weight in packed.values():
        check_pattern(weight.mask(), setting, PATTERNS[setting])


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_the_other_methods_reach_the_sparsity_too(method: str, parent, text: Path, tmp_path: Path) -> None:
    recipe = f"steps: [{{layers: '*', method: {method}, sparsity: 0.6, pattern: row}}]"
    manifest = small_run(parent("gpt2"), recipe, tmp_path / "out", text=str(text), **CALIBRATION)
    for weight in read_packed(tmp_path / "out", manifest).values():
        check_pattern(weight.mask(), "row", 0.6)


def test_one_global_threshold_serves_all_layers(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "dense")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(3.0)
    model.save_pretrained(tmp_path / "dense")
    manifest = small_run(
        tmp_path / "dense", MAGNITUDE.format("sparsity: 0.5, scope: global"), tmp_path / "out"
    )
    packed = read_packed(tmp_path / "out", manifest)
    kept = {name: float(weight.mask().float().mean()) for name, weight in packed.items()}
    total = sum(weight.mask().numel() for weight in packed.values())
    assert sum(int(weight.mask().sum()) for weight in packed.values()) == total - round(0.5 * total)
    assert kept["model.layers.0.mlp.up_proj"] > 0.75
    assert kept["model.layers.1.mlp.up_proj"] < 0.5
    dense = {name: model.get_submodule(name).weight.detach().abs() for name in packed}
    largest_pruned = max(float(dense[name][~weight.mask()].max()) for name, weight in packed.items())
    smallest_kept = min(float(dense[name][weight.mask()].min()) for name, weight in packed.items())
    assert largest_pruned <= smallest_kept


@pytest.mark.parametrize(
    "first", ["method: magnitude, sparsity: 0.6, scope: global", "method: threshold, threshold: 0.1"]
)
def test_what_goes_by_weight_alone_goes_by_the_weights_that_the_model_came_with(
    first: str, text: Path, tmp_path: Path
) -> None:
    model = save_tiny("llama", tmp_path / "dense")
    recipe = f"steps: [{{layers: '*', {first}}}, {{layers: '*', method: gptq, group_size: 32}}]"
    manifest = small_run(tmp_path / "dense", recipe, tmp_path / "out", text=str(text), **CALIBRATION)
    masks = {name: weight.mask() for name, weight in read_packed(tmp_path / "out", manifest).items()}
    dense = {name: model.get_submodule(name).weight.detach().abs() for name in masks}
    largest_pruned = max(float(dense[name][~mask].max()) for name, mask in masks.items())
    assert largest_pruned <= min(float(dense[name][mask].min()) for name, mask in masks.items())
    if "0.6" in first:
        total = sum(mask.numel() for mask in masks.values())
        assert sum(int(mask.sum()) for mask in masks.values()) == total - round(0.6 * total)


@pytest.mark.parametrize("damaged", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_values_that_are_not_finite_are_named_even_where_no_step_looks(damaged: str, tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "dense")
    with torch.no_grad():
        model.get_parameter(damaged).view(-1)[3] = float("nan")
    model.save_pretrained(tmp_path / "dense")
    with pytest.raises(CheckpointError, match=damaged):
        small_run(
            tmp_path / "dense",
            MAGNITUDE.format("sparsity: 0.5").replace("'*'", "'*.q_proj'"),
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("recipe", "left"), [("int8", ["down_proj"]), (RECIPE, ["up_proj", "down_proj"])])
def test_scales_beyond_float16_leave_a_matrix_unquantized_and_the_model_right(
    recipe: str, left: list[str], text: Path, tmp_path: Path
) -> None:
    model = save_tiny("llama", tmp_path / "parent")
    for block in model.model.layers:
        block.mlp.up_proj.weight.data *= 1e7
        block.mlp.down_proj.weight.data *= 1e-7
    model.save_pretrained(tmp_path / "parent")
    chosen = parse_recipe(recipe) if "\n" in recipe else recipe
    made = gossamer.compress(tmp_path / "parent", chosen, out=tmp_path / "out", text=text)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(made.folder)
    expected, got = outputs(model.float(), "llama"), outputs(loaded, "llama")
    for layer in made.manifest["layers"]:
        assert (layer["bits"] is None) == (layer["kind"] in left)
        assert any("outside of float16" in note for note in layer["notes"]) == (layer["kind"] in left)
    if recipe == "int8":
        assert float((got - expected).norm() / expected.norm()) < 0.02


def test_a_table_gives_layers_their_own_sparsity(parent, tmp_path: Path) -> None:
    table = "sparsity: {'*.0.mlp.*': 0.75, '*.0.*': 0.25, '*.1.mlp.*': 0.5}"
    manifest = small_run(parent("llama"), MAGNITUDE.format(table), tmp_path / "out")
    shares = {layer["name"]: layer["sparsity"] for layer in manifest["layers"]}
    assert shares["model.layers.0.mlp.up_proj"] == 0.75
    assert shares["model.layers.0.self_attn.q_proj"] == 0.25
    assert shares["model.layers.1.mlp.up_proj"] == 0.5
    assert "model.layers.1.self_attn.q_proj" not in shares


def test_layers_are_the_only_ones_touched(parent, tmp_path: Path) -> None:
    manifest = small_run(
        parent("bert"), MAGNITUDE.format("sparsity: 0.5"), tmp_path / "out", layers="*.1.output.*"
    )
    assert [layer["name"] for layer in manifest["layers"]] == ["bert.encoder.layer.1.output.dense"]


def test_an_absolute_threshold_prunes_what_lies_below(parent, tmp_path: Path) -> None:
    recipe = "steps: [{layers: '*', method: threshold, threshold: 0.05}]"
    manifest = small_run(parent("llama"), recipe, tmp_path / "out")
    dense = tiny_model("llama")
    for name, weight in read_packed(tmp_path / "out", manifest).items():
        assert torch.equal(weight.mask(), dense.get_submodule(name).weight.abs() >= 0.05)
        assert 0.0 < float(weight.mask().float().mean()) < 1.0


# ---- the loop ---------------------------------------------------------------------------------------------


def file_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


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


def test_later_blocks_see_what_the_compressed_earlier_ones_return(
    parent, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Tensor] = {}
    real = stages.apply_steps

    def noting(job: Any, layer: Any, steps: Any, statistic: Any) -> None:
        seen[layer.name] = statistic.value().clone()
        real(job, layer, steps, statistic)

    monkeypatch.setattr(stages, "apply_steps", noting)
    recipe = "steps: [{layers: '*', method: sparsegpt, sparsity: 0.7}]"
    small_run(parent("llama"), recipe, tmp_path / "out", text=str(text), **CALIBRATION)
    source = open_model(parent("llama"))
    ids_NL, _ = calibration_samples(
        source, with_calibration(parse_recipe(recipe), 4, 32, 0), str(text), lambda *_: None, []
    )
    dense, small = tiny_model("llama"), gossamer.load(tmp_path / "out").model
    name = "model.layers.1.self_attn.q_proj"
    inputs: list[Tensor] = []
    for model in (dense, small):
        handle = model.get_submodule(name).register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
        with torch.inference_mode():
            model(ids_NL)
        handle.remove()
    own, compressed_prefix = (x.reshape(-1, 64).T @ x.reshape(-1, 64) / ids_NL.numel() for x in inputs)
    torch.testing.assert_close(seen[name], compressed_prefix, atol=1e-4, rtol=1e-3)
    assert float((seen[name] - own).norm() / own.norm()) > 0.05


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("pattern", ["unstructured", "row", "8:16", "block 4x16"])
@pytest.mark.parametrize("apart", ["false", "true"])
def test_zeros_are_what_the_recipe_says_after_pruning_refit_training_and_quantizing(
    apart: str, pattern: str, kind: str, parent, text: Path, tmp_path: Path
) -> None:
    chain = f"""
    steps:
      - {{layers: '*', method: admm, sparsity: 0.5, pattern: '{pattern}', iterations: 5}}
      - {{layers: '*', method: refit, iterations: 3}}
      - {{layers: '*', method: reconstruct, epochs: 2, apart: {apart}}}
      - {{layers: '*', method: gptq, bits: 4, group_size: 32}}
    """
    manifest = small_run(parent(kind), chain, tmp_path / "out", text=str(text), **CALIBRATION)
    assert all(abs(layer["sparsity"] - 0.5) < 0.001 for layer in manifest["layers"])
    for layer in manifest["layers"]:
        assert [step["method"] for step in layer["steps"]] == ["admm", "refit", "gptq"]
        assert all(0 < step["relative_error"] < 1 for step in layer["steps"])
    for block in manifest["blocks"]:
        assert 0 < block["output_error"] < 1
        assert len(block["reconstruction"]) == (2 if apart == "true" else 1)
        assert all(gain["after"] <= gain["before"] for gain in block["reconstruction"])


LOW_RANK_CHAINS = {
    "oats": "{{method: oats, pattern: '{}', rank: 4, iterations: 5}}",
    "basil": "{{method: basil, pattern: '{}', rank: 4, iterations: 5}}",
    "basil, gptq": "{{method: basil, pattern: '{}', rank: 4, iterations: 5}}, {{method: gptq, group_size: 32}}",
    "oats, refit, gptq, eora": "{{method: oats, pattern: '{}', rank: 4, iterations: 5}}, "
    "{{method: refit, iterations: 3}}, "
    "{{method: gptq, group_size: 32}}, {{method: eora, rank: 5}}",
    "basil, reconstruct, gptq": "{{method: basil, pattern: '{}', rank: 4, iterations: 5}}, "
    "{{method: reconstruct, epochs: 2}}, {{method: gptq, group_size: 32}}",
    "wanda, rtn, eora": "{{method: wanda, pattern: '{}'}}, {{method: rtn, group_size: 32}}, {{method: eora, rank: 4}}",
    "wanda, basil": "{{method: wanda, pattern: '{}'}}, {{method: basil, pattern: '{}', rank: 4, iterations: 5}}",
}


@pytest.mark.parametrize("pattern", ["unstructured", "8:16"])
@pytest.mark.parametrize("chain", LOW_RANK_CHAINS)
def test_zeros_and_rank_are_what_the_recipe_says_after_every_chain_with_a_low_rank_part(
    chain: str, pattern: str, parent, text: Path, tmp_path: Path
) -> None:
    steps = LOW_RANK_CHAINS[chain].format(pattern, pattern)
    manifest = small_run(
        parent("llama"), f"steps: [{steps}]", tmp_path / "out", text=str(text), **CALIBRATION
    )
    packed = read_packed(tmp_path / "out", manifest)
    for layer in manifest["layers"]:
        weight = packed[layer["name"]]
        assert isinstance(weight, LowRankWeight) and weight.residual is not None
        assert abs(layer["sparsity"] - 0.5) < 0.001
        assert int((weight.residual.unpack() != 0).sum()) <= int(residual_mask(weight).sum())
        assert layer["rank"] == weight.factors().rank == (5 if chain.startswith("oats, refit") else 4)
        assert (layer["bits"] == 4) == ("gptq" in chain or "rtn" in chain)
        assert 0 < layer["relative_error"] < 0.2


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_factors_alone_take_the_place_of_a_weight(kind: str, parent, text: Path, tmp_path: Path) -> None:
    recipe = "steps: [{layers: '*', method: svd, rank: 12}, {layers: '*', method: reconstruct, epochs: 1}]"
    manifest = small_run(parent(kind), recipe, tmp_path / "out", text=str(text), **CALIBRATION)
    for layer in manifest["layers"]:
        assert (layer["format"], layer["rank"], layer["sparsity"]) == ("low_rank", 12, 1.0)
        assert layer["bytes"] == 2 * 12 * sum(layer["shape"])
    case = Case(kind, parent(kind), tmp_path / "out", manifest)
    loaded = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(case.folder)
    assert outputs(loaded, kind).isfinite().all()


def test_a_low_rank_part_brings_the_outputs_closer(parent, text: Path, tmp_path: Path) -> None:
    prune, basil = "{method: admm, sparsity: 0.7}", "{method: basil, sparsity: 0.7, rank: 8}"
    quantize, eora = "{method: gptq, bits: 3, group_size: 32}", "{method: eora, rank: 8}"
    errors = []
    for number, steps in enumerate(([prune, quantize], [prune, quantize, eora], [basil, quantize, eora])):
        out = tmp_path / str(number)
        manifest = small_run(
            parent("llama"), f"steps: [{', '.join(steps)}]", out, text=str(text), **CALIBRATION
        )
        errors.append(sum(block["output_error"] for block in manifest["blocks"]))
    assert errors[0] > 1.1 * errors[1] > 1.2 * errors[2]


def test_aiming_at_the_dense_model_brings_the_outputs_closer(parent, text: Path, tmp_path: Path) -> None:
    recipe = "calibration: {{align: {}}}\nsteps: [{{layers: '*', method: gptq, bits: 2, group_size: 32}}]"
    dense, ids_NL = tiny_model("llama"), tiny_inputs("llama", batch_size=4, seed=9)["input_ids"]
    distances = {}
    for aim in ("true", "false"):
        small_run(parent("llama"), recipe.format(aim), tmp_path / aim, text=str(text), samples=64, length=32)
        small = gossamer.load(tmp_path / aim).model
        with torch.inference_mode():
            distances[aim] = float((small(ids_NL).logits - dense(ids_NL).logits).square().mean())
    assert distances["true"] < distances["false"]


# ---- a time that is given ---------------------------------------------------------------------------------

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


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_that_are_no_time_are_refused(minutes: float, parent, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="positive"):
        small_run(parent("llama"), PRUNED_4_BITS, tmp_path / "out", minutes=minutes)


def test_training_is_refused_for_embeddings(parent, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="trains blocks"):
        small_run(
            parent("llama"), "steps: [{layers: embeddings, method: reconstruct}]", tmp_path / "out", text="x"
        )


def test_an_untied_head_can_be_compressed_on_what_it_sees(parent, text: Path, tmp_path: Path) -> None:
    recipe = "steps: [{layers: head, method: gptq, bits: 4, group_size: 32}]"
    manifest = small_run(parent("llama"), recipe, tmp_path / "out", text=str(text), **CALIBRATION)
    [layer] = manifest["layers"]
    assert layer["name"] == "lm_head"
    assert 0.0 < layer["relative_error"] < 0.2


def test_sparsegpt_loses_less_of_the_outputs_than_magnitude(parent, text: Path, tmp_path: Path) -> None:
    errors = {}
    for method in ("sparsegpt", "wanda"):
        recipe = f"steps: [{{layers: '*', method: {method}, sparsity: 0.5}}]"
        manifest = small_run(parent("llama"), recipe, tmp_path / method, text=str(text), **CALIBRATION)
        errors[method] = [layer["relative_error"] for layer in manifest["layers"]]
    assert errors["sparsegpt"][0] < errors["wanda"][0]
    assert all(0 < error < 1 for error in errors["sparsegpt"])


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


# ---- text -------------------------------------------------------------------------------------------------


def test_without_text_the_model_writes_its_own_and_the_notes_say_so(parent, tmp_path: Path) -> None:
    manifest = small_run(parent("llama"), "steps: [{method: wanda}]", tmp_path / "out", samples=2, length=8)
    assert manifest["calibration"]["source"] == "written by the model itself"
    assert any("wrote itself" in note for note in manifest["notes"])
    assert manifest["calibration"]["tokens"] == 16


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_a_model_that_cannot_write_text_asks_for_some(kind: str, parent, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--text"):
        small_run(parent(kind), "steps: [{method: wanda}]", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "text"), (b"  \n\n", "text"), (b"far too short", "need"), (b"\xff\xfe\x00\x80" * 50, "UTF-8")],
)
def test_text_that_is_empty_too_short_or_binary_is_refused(
    content: bytes, words: str, parent, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        small_run(
            parent("llama"), "steps: [{method: wanda}]", tmp_path / "out", text=str(path), **CALIBRATION
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["calibration.txt"]


def test_missing_text_is_refused(parent, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        small_run(
            parent("llama"), "steps: [{method: wanda}]", tmp_path / "out", text=str(tmp_path / "none.txt")
        )
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_tokenizer_cannot_be_shown_text_but_needs_none_for_rounding(
    text: Path, tmp_path: Path
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    with pytest.raises(UsageError, match="tokenizer"):
        small_run(tmp_path / "dense", "steps: [{method: wanda}]", tmp_path / "out", text=str(text))
    manifest = small_run(tmp_path / "dense", MAGNITUDE.format("sparsity: 0.5"), tmp_path / "out")
    assert manifest["calibration"] == {"source": None}


def test_windows_are_shortened_to_the_positions_that_the_model_has(
    parent, text: Path, tmp_path: Path
) -> None:
    recipe = "calibration: {samples: 2, length: 512}\nsteps: [{layers: '*.0.*', method: wanda}]"
    manifest = small_run(parent("whisper"), recipe, tmp_path / "out", text=str(text))
    assert manifest["calibration"]["length"] == 64
    assert any("shortened from 512 to the 64" in note for note in manifest["notes"])
    with pytest.raises(UsageError, match="--length 300"):
        small_run(parent("gpt2"), recipe, tmp_path / "long", text=str(text), length=300)
    assert not (tmp_path / "long").exists()


# ---- what must not be written -----------------------------------------------------------------------------


def test_a_parent_with_nan_is_refused_with_the_layer_named(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "dense")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    model.save_pretrained(tmp_path / "dense")
    with pytest.raises(CheckpointError, match=r"^model\.layers\.1\.mlp\.up_proj: .*NaN"):
        small_run(tmp_path / "dense", MAGNITUDE.format("sparsity: 0.5"), tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["dense"]


def test_inputs_with_nan_are_refused_with_the_layer_named(text: Path, tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "dense")
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[0] = float("inf")
    model.save_pretrained(tmp_path / "dense")
    with pytest.raises(CalibrationError, match=r"^model\.layers\.1\.self_attn\.q_proj: .*infinite"):
        small_run(
            tmp_path / "dense", "steps: [{method: wanda}]", tmp_path / "out", text=str(text), **CALIBRATION
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["dense"]


@pytest.mark.parametrize("victim", ["codes4", "scale", "norm.weight"])
def test_a_tensor_that_was_damaged_on_its_way_to_the_disk_is_caught(
    victim: str, parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(tensors: dict[str, Tensor], path: Path, metadata: Any = None) -> None:
        damaged = copy.copy(tensors)
        for name in [name for name in tensors if name.endswith(victim)][:1]:
            damaged[name] = tensors[name].clone()
            first = damaged[name].view(torch.uint8).view(-1)
            first[1] ^= 0x01  # a single bit
        save_file(damaged, path, metadata=metadata)

    monkeypatch.setattr(writer, "save_file", damaging)
    with pytest.raises(RunError, match=rf"{victim}: what was written is not what"):
        small_run(parent("llama"), "steps: [{method: rtn, group_size: 32}]", tmp_path / "out")
    assert not list(tmp_path.iterdir())


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
