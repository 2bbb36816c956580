"""One call loads anything, in the type that suits it."""

from pathlib import Path

import pytest
import torch

import gossamer
from gossamer.errors import CheckpointError, UsageError
from gossamer.layers.replace import sparse_linears
from tests.models import save_tiny, tiny_inputs, tiny_model


def test_a_compressed_model_comes_with_its_tokenizer_in_eval_mode(compressed) -> None:
    model, tokenizer = gossamer.load(compressed("llama").folder)
    assert tokenizer is not None
    assert tokenizer("ab")["input_ids"]
    assert not model.training
    assert model.dtype == torch.float32


def test_a_dense_model_keeps_its_stored_type_unless_another_is_asked_for(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, dtype=torch.bfloat16)
    assert gossamer.load(tmp_path).model.dtype == torch.bfloat16
    model = gossamer.load(tmp_path, dtype=torch.float32).model
    assert model.dtype == torch.float32
    expected = dict(tiny_model("llama").to(torch.bfloat16).float().named_parameters())
    assert all(torch.equal(parameter, expected[name]) for name, parameter in model.named_parameters())


def test_activations_reach_every_packed_linear(compressed) -> None:
    folder = compressed("llama").folder
    exact, rounded = (gossamer.load(folder, activations=each).model for each in ("float", "int8"))
    assert {linear.activations for linear in sparse_linears(rounded).values()} == {"int8"}
    assert {linear.activations for linear in sparse_linears(exact).values()} == {"float"}
    with torch.inference_mode():
        one, two = (model(**tiny_inputs("llama")).logits for model in (exact, rounded))
    assert 0 < float((one - two).norm() / one.norm()) < 0.1


def test_unknown_activations_are_refused(compressed) -> None:
    with pytest.raises(UsageError, match=r"float or int8.*'int4'"):
        gossamer.load(compressed("llama").folder, activations="int4")


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "none.gguf"):
        with pytest.raises(CheckpointError):
            gossamer.load(path)
