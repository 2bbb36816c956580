"""Encoders: those with a masked-LM head learn its logits, the others the parent's last hidden states."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import gossamer
from gossamer.checkpoint.manifest import read_manifest
from gossamer.checkpoint.source import open_model
from gossamer.errors import UsageError
from gossamer.recipe.reader import parse_recipe
from gossamer.training.settings import TrainingSettings
from gossamer.training.shown import Shown
from gossamer.training.text import read_text
from tests.conftest import read_packed, read_tensors
from tests.models import tiny_config, tiny_tokenizer

QUICK = TrainingSettings(length=32, batch=4, learning_rate=1e-3)
RECIPE = """
calibration: {samples: 4, length: 32}
steps:
  - {layers: "*", method: wanda, sparsity: 0.5}
  - {layers: "*", method: rtn, bits: 4, group_size: 32}
"""
Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Callable[[str], Pair]:
    """Give (parent, compressed) of a class of encoder."""
    made: dict[str, Pair] = {}

    def get(name: str) -> Pair:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            torch.manual_seed(0)
            model = getattr(transformers, name)(tiny_config("bert"))
            for parameter in model.parameters():
                parameter.data.mul_(8 if parameter.ndim > 1 else 1)  # else all tokens are as likely
            model.save_pretrained(place / "parent")
            tokenizer = tiny_tokenizer()
            tokenizer.mask_token, tokenizer.cls_token, tokenizer.sep_token = (
                tokenizer.convert_ids_to_tokens(number) for number in (5, 6, 7)
            )
            tokenizer.save_pretrained(place / "parent")
            gossamer.compress(place / "parent", parse_recipe(RECIPE), out=place / "small", text=str(text))
            made[name] = place / "parent", place / "small"
        return made[name]

    return get


def recovered(pair: Pair, text: Path, out: Path, **given: Any) -> dict[str, Any]:
    given = {"steps": 24, "settings": QUICK, **given}
    return gossamer.recover(pair[1], parent=pair[0], text=text, out=out, **given).record


@pytest.mark.parametrize(
    ("name", "measure"), [("BertForMaskedLM", "kl"), ("BertModel", "error")]
)  # fmt: skip
def test_an_encoder_comes_closer_to_its_parent_in_the_same_forms_and_zeros(
    name: str, measure: str, encoders: Callable[[str], Pair], text: Path, tmp_path: Path
) -> None:
    parent, small = encoders(name)
    record = recovered((parent, small), text, tmp_path / "out")
    found = record[f"held_out_{measure}"]
    assert 0 < found["after"] < 0.9 * found["before"]
    assert [measure in point for point in record["curve"]] == [True] * len(record["curve"])
    assert all((point["perplexity"] is None) == (measure == "error") for point in record["curve"])
    manifest = read_manifest(tmp_path / "out")
    before, after = read_packed(small, manifest), read_packed(tmp_path / "out", manifest)
    assert all(torch.equal(packed.mask(), before[name].mask()) for name, packed in after.items())
    old, new = read_tensors(small), read_tensors(tmp_path / "out")
    assert {key: each.dtype for key, each in old.items()} == {key: each.dtype for key, each in new.items()}


def test_what_is_judged_of_embeddings_is_their_squared_error_over_the_parents_mean_square(
    encoders: Callable[[str], Pair], text: Path, tmp_path: Path
) -> None:
    parent, small = encoders("BertModel")
    record = recovered((parent, small), text, tmp_path / "out", steps=1)
    words = read_text(open_model(small), [text], 32, 0, lambda *_: None)
    ids_NL = words.ids_NL[list(words.held_out)]
    assert (ids_NL[:, 0] == 6).all() and (ids_NL[:, -1] == 7).all()
    with torch.no_grad():
        own, other = (
            gossamer.load(folder, dtype=torch.float32).model(ids_NL).last_hidden_state
            for folder in (small, parent)
        )
    errors = (own - other).square().sum((1, 2)) / other.square().sum((1, 2))
    assert record["held_out_error"]["before"] == pytest.approx(float(errors.mean()), rel=1e-3)


def test_masked_tokens_are_the_same_each_time_and_never_the_frame() -> None:
    shown = Shown("masked", mask_token=5, frame=(6, 7), seed=3)
    ids_BL = torch.full((3, 40), 9)
    masked_BL = shown.ids([4, 0, 8], ids_BL) == 5
    assert torch.equal(shown.ids([0], ids_BL[:1]) == 5, masked_BL[1:2])
    assert masked_BL.sum(1).tolist() == [6, 6, 6]
    assert not masked_BL[:, [0, -1]].any()
    weight_BL = shown.weights([4, 0, 8], ids_BL).view(3, 40)
    assert torch.equal(weight_BL > 0, masked_BL)
    assert float(weight_BL.sum()) == pytest.approx(1.0)
    assert not torch.equal(masked_BL[0], masked_BL[1])


@pytest.mark.parametrize(
    ("name", "option", "given"),
    [
        ("BertModel", "--labels", {"settings": replace(QUICK, labels=0.5)}),
        ("BertModel", "--temperature", {"settings": replace(QUICK, temperature=2.0)}),
        ("BertForMaskedLM", "--teacher-engine native", {"settings": replace(QUICK, teacher_engine="native")}),
        ("BertForMaskedLM", "--text self", {"text": "self"}),
        ("BertModel", "--lessons", {"lessons": "somewhere", "text": ()}),
    ],
)
def test_what_an_encoder_cannot_be_asked_for_is_refused(
    name: str, option: str, given: dict[str, Any], encoders: Callable[[str], Pair], text: Path, tmp_path: Path
) -> None:
    parent, small = encoders(name)
    asked: dict[str, Any] = {"text": text, "steps": 1, "settings": QUICK, **given}
    with pytest.raises(UsageError, match=f"{option}: has no meaning for"):
        gossamer.recover(small, parent=parent, out=tmp_path / "out", **asked)
    assert not list(tmp_path.iterdir())


def test_labels_and_hidden_states_teach_a_masked_language_model_too(
    encoders: Callable[[str], Pair], text: Path, tmp_path: Path
) -> None:
    settings = replace(QUICK, labels=0.1, hidden=0.5)
    record = recovered(encoders("BertForMaskedLM"), text, tmp_path / "out", settings=settings)
    assert record["held_out_kl"]["after"] < record["held_out_kl"]["before"]
