"""A rotated folder is an ordinary one that computes what its parent computes, with other weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import gossamer
from gossamer.checkpoint.loading import load
from gossamer.checkpoint.source import open_model
from gossamer.errors import CheckpointError, UnsupportedModelError, UsageError
from gossamer.recipe.reader import parse_recipe
from gossamer.rotation import families as rotation
from tests.checkpoint.gguf_files import write_gguf
from tests.conftest import read_tensors
from tests.models import save_tiny, tiny_inputs, tiny_model
from tests.runtime.engines import error, exact, text_ids

VALUE_KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2", "opt", "bert", "roberta")
RESIDUAL_KINDS = ("llama", "mistral", "qwen2", "qwen3")
ODD = {"hidden_size": 60, "head_dim": 6, "num_attention_heads": 6, "num_key_value_heads": 3}
"""60 is an order of Paley's, 6 is none; heads together are narrower than the stream."""
TOLERANCE = 5e-6


def logits(folder: Path, kind: str) -> Tensor:
    """What plain transformers computes from a folder, every weight of which it must find there."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.inference_mode():
        result: Tensor = model.eval()(**tiny_inputs(kind)).logits
    return result.float()


def rotated_error(kind: str, folder: Path, what: str, **changes: Any) -> float:
    """The relative difference of logits after a rotation of a tiny model; its weights must have changed."""
    save_tiny(kind, folder / "parent", **changes)
    gossamer.rotate(folder / "parent", folder / "rotated", what=what, untie=True)
    before, after = read_tensors(folder / "parent"), read_tensors(folder / "rotated")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    return error(logits(folder / "rotated", kind), logits(folder / "parent", kind))


@pytest.mark.parametrize("kind", VALUE_KINDS)
def test_rotated_values_change_no_logits(kind: str, tmp_path: Path) -> None:
    assert rotated_error(kind, tmp_path, "values") < TOLERANCE


@pytest.mark.parametrize("what", ["residual", "all"])
@pytest.mark.parametrize("kind", RESIDUAL_KINDS)
def test_a_rotated_residual_stream_changes_no_logits(kind: str, what: str, tmp_path: Path) -> None:
    assert rotated_error(kind, tmp_path, what) < TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [
        ODD,
        {**ODD, "attention_bias": True, "mlp_bias": True},
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 4},
        {"hidden_size": 52, "head_dim": 26},
    ],
)
def test_sizes_biases_groups_and_ties_change_no_logits(changes: dict[str, Any], tmp_path: Path) -> None:
    assert rotated_error("llama", tmp_path, "all", **changes) < TOLERANCE


def test_a_wrong_rotation_would_change_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerance is narrow enough: keys in the place of values are noticed."""
    monkeypatch.setitem(rotation.VALUES, "llama", ("self_attn.k_proj", "self_attn.o_proj"))
    assert rotated_error("llama", tmp_path, "values") > 1e3 * TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_of_the_parent_is_kept_unless_told_otherwise(dtype: torch.dtype, tmp_path: Path) -> None:
    save_tiny("qwen2", tmp_path / "parent", dtype=dtype)
    for told, expected in ((None, dtype), ("float32", torch.float32)):
        result = gossamer.rotate(tmp_path / "parent", tmp_path / f"{told}", what="values", dtype=told)
        assert {tensor.dtype for tensor in read_tensors(tmp_path / f"{told}").values()} == {expected}
        assert getattr(torch, result.dtype) == expected
        assert load(tmp_path / f"{told}").model.dtype == expected


def test_norms_become_ones_and_the_head_is_untied_only_where_that_is_needed(tmp_path: Path) -> None:
    save_tiny("qwen3", tmp_path / "parent")
    result = gossamer.rotate(tmp_path / "parent", tmp_path / "all", what="all", untie=True)
    tensors = read_tensors(tmp_path / "all")
    ones = {name for name, tensor in tensors.items() if bool((tensor == 1).all())}
    layers = [f"model.layers.{layer}.{norm}" for layer in (0, 1) for norm in ("input", "post_attention")]
    assert ones == {"model.norm.weight", *(f"{layer}_layernorm.weight" for layer in layers)}
    assert result.untied_bytes == tensors["lm_head.weight"].nbytes == 4 * 260 * 64
    assert json.loads((tmp_path / "all" / "config.json").read_text())["tie_word_embeddings"] is False
    gossamer.rotate(tmp_path / "parent", tmp_path / "values", untie=True)
    assert "lm_head.weight" not in read_tensors(tmp_path / "values")
    assert json.loads((tmp_path / "values" / "config.json").read_text())["tie_word_embeddings"] is True


def test_a_seed_gives_the_same_bytes_and_another_one_others(parent, tmp_path: Path) -> None:
    first, again, other = (
        gossamer.rotate(parent("llama"), tmp_path / f"{number}", what="all", seed=seed)
        for number, seed in enumerate((5, 5, 6))
    )
    files = [result.folder / "model.safetensors" for result in (first, again, other)]
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_an_outlier_is_spread_over_its_head(tmp_path: Path) -> None:
    """What rotations are for: one large output of the values makes one large row; after it none stands out."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight[5] *= 50
    model.save_pretrained(tmp_path / "parent")
    gossamer.rotate(tmp_path / "parent", tmp_path / "rotated")
    name = "model.layers.0.self_attn.v_proj.weight"
    before, after = (read_tensors(tmp_path / folder)[name][:16] for folder in ("parent", "rotated"))
    assert float(before.norm(dim=1).max() / before.norm(dim=1).median()) > 20
    assert float(after.norm(dim=1).max() / after.norm(dim=1).median()) < 1.5


def test_a_gguf_file_becomes_a_folder_with_its_tokenizer(tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    file = write_gguf(model, "llama", tmp_path / "tiny.gguf")
    gossamer.rotate(file, tmp_path / "rotated", what="all", untie=True)
    rotated = load(tmp_path / "rotated")
    assert rotated.model.dtype == torch.float16
    assert rotated.tokenizer is not None
    with torch.inference_mode():
        expected = model(**tiny_inputs("llama")).logits
        got = rotated.model.float()(**tiny_inputs("llama")).logits
    assert error(got, expected) < 5e-3


def test_shards_are_read_and_the_files_beside_the_weights_come_along(tmp_path: Path) -> None:
    save_tiny("mistral", tmp_path / "parent", max_shard_size="50KB")
    assert len(list((tmp_path / "parent").glob("*.safetensors"))) > 1
    gossamer.rotate(tmp_path / "parent", tmp_path / "rotated", what="all")
    assert error(logits(tmp_path / "rotated", "mistral"), logits(tmp_path / "parent", "mistral")) < TOLERANCE
    assert (tmp_path / "rotated" / "tokenizer.json").is_file()
    record = json.loads((tmp_path / "rotated" / "rotation.json").read_text())
    assert record["parent"]["sha256"] == open_model(tmp_path / "parent").fingerprint()
    assert (record["values"], record["residual"]["size"]) == ({"size": 16, "matrix": "hadamard"}, 64)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_a_rotated_model_is_compressed_and_runs_on_the_native_engine(
    kind: str, parent, text: Path, tmp_path: Path
) -> None:
    what = "values" if kind == "gpt2" else "all"
    gossamer.rotate(parent(kind), tmp_path / "rotated", what=what, untie=True)
    dense_TV = load(parent(kind)).model(text_ids()[None]).logits[0].detach()
    assert error(exact(tmp_path / "rotated").logits(text_ids()), dense_TV) < 1e-3
    recipe = parse_recipe(
        "{calibration: {samples: 4, length: 32}, steps: [{layers: '*', method: gptq, bits: 8, group_size: 32}]}"
    )
    gossamer.compress(tmp_path / "rotated", recipe, out=tmp_path / "small", text=str(text))
    with torch.inference_mode():
        expected_TV = load(tmp_path / "small").model(text_ids()[None]).logits[0]
    assert error(exact(tmp_path / "small").logits(text_ids()), expected_TV) < 1e-3
    assert error(expected_TV, dense_TV) < 0.05


# ---- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5", "whisper"])
def test_families_that_are_not_known_to_keep_values_are_refused(kind: str, parent, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{kind}: expected a family in which values reach"):
        gossamer.rotate(parent(kind), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["gpt2", "gemma3", "opt", "bert"])
@pytest.mark.parametrize("what", ["residual", "all"])
def test_streams_that_are_normed_otherwise_are_not_rotated(
    kind: str, what: str, parent, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=r"read through RMSNorms and nothing else.*--what values"):
        gossamer.rotate(parent(kind), tmp_path / "out", what=what)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["LlamaModel", "LlamaForSequenceClassification"])
def test_the_stream_of_a_model_without_a_language_head_is_not_rotated(name: str, tmp_path: Path) -> None:
    model = getattr(transformers, name)(tiny_model("llama").config)
    model.save_pretrained(tmp_path / "parent")
    with pytest.raises(UnsupportedModelError, match=f"{name}: expected a language model with its head"):
        gossamer.rotate(tmp_path / "parent", tmp_path / "out", what="residual")
    gossamer.rotate(tmp_path / "parent", tmp_path / "out")


def test_a_tied_head_is_refused_with_what_it_would_cost(parent, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--untie.*16,640 parameters, 0\.0 MB more in 16 bits"):
        gossamer.rotate(parent("qwen3"), tmp_path / "out", what="residual")


def test_what_cannot_be_meant_is_refused_before_anything_is_written(parent, compressed, tmp_path) -> None:
    for settings in ({"what": "keys"}, {"dtype": "int8"}, {"seed": -1}, {"seed": 2**63}):
        with pytest.raises(UsageError, match="expected"):
            gossamer.rotate(parent("llama"), tmp_path / "out", **settings)
    with pytest.raises(UsageError, match="holds the model that is read"):
        gossamer.rotate(parent("llama"), parent("llama"), overwrite=True)
    with pytest.raises(UnsupportedModelError, match="got a compressed one"):
        gossamer.rotate(compressed("llama").folder, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"expected this file, it does not exist"):
        gossamer.rotate(tmp_path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_replaced_only_when_told_to(parent, tmp_path: Path) -> None:
    gossamer.rotate(parent("llama"), tmp_path / "out", seed=1)
    with pytest.raises(UsageError, match="exists already"):
        gossamer.rotate(parent("llama"), tmp_path / "out")
    assert gossamer.rotate(parent("llama"), tmp_path / "out", seed=2, overwrite=True).seed == 2
    assert json.loads((tmp_path / "out" / "rotation.json").read_text())["seed"] == 2


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), None), (1e6, "float16")])
def test_weights_that_are_not_finite_are_refused_and_nothing_is_left(
    value: float, dtype: str | None, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = value
    model.save_pretrained(tmp_path / "parent")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN or infinite"):
        gossamer.rotate(tmp_path / "parent", tmp_path / "out", dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


def test_an_interrupt_leaves_nothing_and_what_was_there_as_it_was(parent, tmp_path: Path) -> None:
    def interrupt(_what: str, done: int, _total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    gossamer.rotate(parent("llama"), tmp_path / "out", seed=1)
    with pytest.raises(KeyboardInterrupt):
        gossamer.rotate(parent("llama"), tmp_path / "out", overwrite=True, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((tmp_path / "out" / "rotation.json").read_text())["seed"] == 1
