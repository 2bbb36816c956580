"""Windows of tokens become what a model's forward takes."""

import pytest
import torch

from gossamer.calibration.batches import TOKENS_PER_BATCH, model_batches, position_limit
from tests.models import KINDS, tiny_model


@pytest.mark.parametrize("kind", KINDS)
def test_every_window_reaches_the_model_once_and_in_order(kind: str) -> None:
    model, ids_NL = tiny_model(kind), torch.randint(256, (9, 32))
    batches = model_batches(model, ids_NL, [])
    key = "decoder_input_ids" if model.config.is_encoder_decoder else "input_ids"
    assert torch.equal(torch.cat([batch[key] for batch in batches]), ids_NL)
    assert len(batches[0][key]) == 1
    with torch.inference_mode():
        assert model(**batches[0]).logits.shape[1] == 32


def test_a_batch_holds_about_so_many_tokens() -> None:
    batches = model_batches(tiny_model("llama"), torch.zeros(40, 128, dtype=torch.int64), [])
    sizes = [batch["input_ids"].numel() for batch in batches]
    assert sizes[0] == 128
    assert max(sizes) == TOKENS_PER_BATCH
    assert sum(sizes) == 40 * 128
    long = model_batches(tiny_model("llama"), torch.zeros(3, TOKENS_PER_BATCH + 5, dtype=torch.int64), [])
    assert [len(batch["input_ids"]) for batch in long] == [1, 1, 1]


def test_one_window_makes_one_batch() -> None:
    assert len(model_batches(tiny_model("llama"), torch.zeros(1, 8, dtype=torch.int64), [])) == 1


def test_a_model_that_listens_gets_the_same_noise_each_time_and_a_note_says_so() -> None:
    notes: list[str] = []
    ids_NL = torch.zeros(3, 8, dtype=torch.int64)
    one = model_batches(tiny_model("whisper"), ids_NL, notes)
    two = model_batches(tiny_model("whisper"), ids_NL, [])
    assert one[1]["input_features"].shape == (2, 8, 32)
    assert all(torch.equal(a["input_features"], b["input_features"]) for a, b in zip(one, two, strict=True))
    assert one[0]["input_features"].std() > 0.5
    assert len(notes) == 1
    assert "noise" in notes[0]


def test_text_models_get_no_note() -> None:
    notes: list[str] = []
    for kind in ("llama", "bert", "t5"):
        model_batches(tiny_model(kind), torch.zeros(2, 8, dtype=torch.int64), notes)
    assert notes == []


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("llama", 256),
        ("gpt2", 256),
        ("opt", 256),
        ("bert", 258),
        ("roberta", 259),
        ("t5", None),
        ("whisper", 64),
    ],
)
def test_the_position_limit_is_what_the_model_really_takes(kind: str, limit: int | None) -> None:
    model = tiny_model(kind)
    assert position_limit(model) == limit
    if limit is None or kind == "llama":  # rotary positions have no table that ends
        return
    for length, fits in ((limit, True), (limit + 1, False)):
        [batch] = model_batches(model, torch.full((1, length), 5), [])
        with torch.inference_mode():
            if fits:
                model(**batch)
            else:
                with pytest.raises((IndexError, RuntimeError, ValueError)):
                    model(**batch)
