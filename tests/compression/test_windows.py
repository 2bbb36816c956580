"""The windows that a run shows to a model: they open as every text does for it, and hold only tokens that it knows."""

from pathlib import Path

import pytest
import torch

from gossamer.checkpoint.source import open_model
from gossamer.compression.windows import calibration_samples, with_calibration
from gossamer.data.samples import fingerprint, sample
from gossamer.data.sources import read_documents
from gossamer.data.tokens import tokenize
from gossamer.errors import DataError
from gossamer.progress import silent
from gossamer.recipe.reader import parse_recipe
from tests.models import save_tiny, tiny_tokenizer

RECIPE = with_calibration(parse_recipe("steps: [{layers: '*', method: wanda, sparsity: 0.5}]"), 4, 32, 0)


def shown(folder: Path, text: Path | None) -> torch.Tensor:
    return calibration_samples(open_model(folder), RECIPE, None if text is None else str(text), silent, [])[0]


def test_windows_of_a_text_open_with_the_start_token(text: Path, tmp_path: Path) -> None:
    save_tiny("gemma3", tmp_path)
    tiny_tokenizer("<bos> $A").save_pretrained(tmp_path)
    ids_NL = shown(tmp_path, text)
    assert (ids_NL[:, 0] == 257).all()
    assert (ids_NL[:, 1:] < 256).all()


def test_windows_without_a_start_token_and_their_fingerprint_are_those_of_the_text(
    parent, text: Path
) -> None:
    ids_NL, record = calibration_samples(open_model(parent("llama")), RECIPE, str(text), silent, [])
    stream = tokenize(read_documents(text), tiny_tokenizer(), text.name)
    expected_NL = sample(stream, 4, 32, 0)
    assert torch.equal(ids_NL, expected_NL)
    assert record["fingerprint"] == fingerprint(text.name, expected_NL, RECIPE.calibration.model_dump())


def test_text_that_the_model_writes_opens_with_the_start_token(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    tiny_tokenizer("<eos> $A").save_pretrained(tmp_path)
    assert (shown(tmp_path, None)[:, 0] == 258).all()


def test_an_encoder_sees_its_frame(text: Path, tmp_path: Path) -> None:
    save_tiny("bert", tmp_path)
    tokenizer = tiny_tokenizer("<bos> $A <eos>")
    tokenizer.cls_token, tokenizer.sep_token = "<bos>", "<eos>"
    tokenizer.save_pretrained(tmp_path)
    ids_NL = shown(tmp_path, text)
    assert (ids_NL[:, 0] == 257).all() and (ids_NL[:, -1] == 258).all()
    assert (ids_NL[:, 1:-1] < 256).all()


def test_a_token_without_an_embedding_is_refused_before_any_work(text: Path, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model", vocab_size=258, eos_token_id=None)
    turns = tmp_path / "turns.txt"
    turns.write_text(text.read_text(encoding="utf-8") + " <eos>")
    with pytest.raises(DataError, match=r"turns.txt: .*258 \('<eos>'\); its embedding has 258 rows"):
        shown(tmp_path / "model", turns)
    assert shown(tmp_path / "model", text).shape == (4, 32)
