"""Ties are those of the weights: a head of its own stays one, whatever config.json declares, wherever a model goes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import gossamer
from gossamer.checkpoint.loading import load
from gossamer.checkpoint.read import huggingface
from gossamer.checkpoint.source import open_model
from gossamer.checkpoint.summary import inspect
from gossamer.checkpoint.write.export import export
from gossamer.compression.preview import head_is_tied
from gossamer.errors import CheckpointError
from gossamer.recipe.reader import parse_recipe
from gossamer.rotation.rotate import rotate
from tests.models import save_tiny, tiny_inputs
from tests.runtime.engines import error, exact

HEADS = {
    "qwen3": "lm_head.weight",
    "gemma3": "lm_head.weight",
    "gpt2": "lm_head.weight",
    "opt": "lm_head.weight",
    "bert": "cls.predictions.decoder.weight",
    "t5": "lm_head.weight",
    "whisper": "proj_out.weight",
}
NATIVE = ("qwen3", "gemma3", "gpt2")
STEP = "steps: [{{layers: {layers}, method: rtn, bits: 8, group_size: 32}}]"


def change(
    folder: Path, drop: tuple[str, ...] = (), config: dict[str, Any] | None = None, **added: Tensor
) -> None:
    """Rewrite weights and configuration of a folder; names of `added` have "__" for a dot."""
    file, settings = folder / "model.safetensors", folder / "config.json"
    tensors = {name: tensor for name, tensor in load_file(file).items() if name not in drop}
    tensors |= {name.replace("__", "."): tensor.clone() for name, tensor in added.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    settings.write_text(json.dumps(json.loads(settings.read_text()) | (config or {})))


def own_head(kind: str, folder: Path) -> Tensor:
    """Write a tiny model whose file has a head of its own under a config that says tied; return its logits."""
    model = save_tiny(kind, folder)
    shape = model.get_parameter(HEADS[kind]).shape
    head_VI = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    change(folder, **{HEADS[kind].replace(".", "__"): head_VI})
    with torch.inference_mode():
        return type(model).from_pretrained(folder)(**tiny_inputs(kind)).logits


def logits(folder: Path, kind: str) -> Tensor:
    with torch.inference_mode():
        return load(folder, dtype=torch.float32).model(**tiny_inputs(kind)).logits


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_of_its_own_is_kept_when_the_config_says_tied(kind: str, tmp_path: Path) -> None:
    expected = own_head(kind, tmp_path)
    source = open_model(tmp_path)
    head = HEADS[kind]
    assert head not in dict(source.architecture.tied) and not head_is_tied(source)
    assert source.num_parameters == sum(each.numel() for each in source.model.parameters())
    assert next(each.size_bytes for each in inspect(tmp_path).matrices if f"{each.name}.weight" == head) > 0
    torch.testing.assert_close(logits(tmp_path, kind), expected)
    if kind in NATIVE:
        assert error(exact(tmp_path).logits(tiny_inputs(kind)["input_ids"][0]), expected[0]) < 1e-3


@pytest.mark.parametrize("layers", ["embeddings", "head", "[embeddings, head]", "'*'"])
@pytest.mark.parametrize("kind", HEADS)
def test_a_head_of_its_own_survives_compression_and_export(kind: str, layers: str, tmp_path: Path) -> None:
    expected = own_head(kind, tmp_path / "dense")
    small, plain = tmp_path / "small", tmp_path / "plain"
    gossamer.compress(tmp_path / "dense", parse_recipe(STEP.format(layers=layers)), out=small)
    tolerance = 0.2 if kind == "t5" else 0.02  # T5's attention is not scaled: rounding shows
    compressed = logits(small, kind)
    assert error(compressed, expected) < tolerance
    torch.testing.assert_close(logits(export(small, plain), kind), compressed)
    model_class = getattr(transformers, open_model(plain).auto_class_name)
    with torch.inference_mode():
        torch.testing.assert_close(model_class.from_pretrained(plain)(**tiny_inputs(kind)).logits, compressed)
    if kind in NATIVE:
        ids_T = tiny_inputs(kind)["input_ids"][0]
        assert error(exact(small).logits(ids_T), compressed[0]) < 0.01
        assert error(exact(plain).logits(ids_T), compressed[0]) < 1e-3


def test_a_head_of_its_own_is_rotated_without_untying(tmp_path: Path) -> None:
    expected = own_head("qwen3", tmp_path / "dense")
    rotate(tmp_path / "dense", tmp_path / "rotated")
    assert error(logits(tmp_path / "rotated", "qwen3"), expected) < 1e-5


def test_a_head_that_equals_the_embeddings_is_tied_to_them(tmp_path: Path) -> None:
    model = save_tiny("qwen3", tmp_path)
    change(tmp_path, lm_head__weight=model.lm_head.weight.detach())
    assert open_model(tmp_path).architecture.tied == (("lm_head.weight", "model.embed_tokens.weight"),)


def test_a_file_that_keeps_only_the_head_gives_the_embeddings_too(tmp_path: Path) -> None:
    model = save_tiny("qwen3", tmp_path / "dense")
    embedding = "model.embed_tokens.weight"
    change(tmp_path / "dense", drop=(embedding,), lm_head__weight=model.lm_head.weight.detach())
    with torch.inference_mode():
        expected = model(**tiny_inputs("qwen3")).logits
    torch.testing.assert_close(logits(tmp_path / "dense", "qwen3"), expected)
    assert error(exact(tmp_path / "dense").logits(tiny_inputs("qwen3")["input_ids"][0]), expected[0]) < 1e-3
    gossamer.compress(
        tmp_path / "dense", parse_recipe(STEP.format(layers="embeddings")), out=tmp_path / "small"
    )
    assert error(logits(tmp_path / "small", "qwen3"), expected) < 0.02


def test_a_head_that_is_neither_stored_nor_tied_is_refused(tmp_path: Path) -> None:
    save_tiny("qwen3", tmp_path)
    change(tmp_path, config={"tie_word_embeddings": False})
    with pytest.raises(CheckpointError, match="set tie_word_embeddings to true"):
        logits(tmp_path, "qwen3")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        exact(tmp_path)


def test_a_head_under_a_name_that_only_transformers_knows_is_no_silent_tie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_head("qwen3", tmp_path)
    monkeypatch.setattr(huggingface, "stored_twice", lambda _skeleton, _stored: [])
    with pytest.raises(CheckpointError, match="tie_word_embeddings to false"):
        open_model(tmp_path).model  # noqa: B018
