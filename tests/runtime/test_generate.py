"""Text from a model: repeatable, within its limits, and stopped when nobody listens."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer.checkpoint.loading import Loaded, load
from gossamer.errors import RunError, UsageError
from gossamer.runtime.generate import generate
from tests.models import save_tiny, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def loaded(compressed) -> Loaded:
    return load(compressed("llama").folder)


def written(loaded: Loaded, prompt: str = "The spider", **settings: Any) -> str:
    return "".join(generate(loaded, prompt, **{"max_tokens": 12, **settings}))


def test_greedy_text_is_what_the_most_likely_tokens_spell(loaded: Loaded) -> None:
    model, tokenizer = loaded
    assert tokenizer is not None
    ids = tokenizer("The spider", return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.inference_mode():
        for _ in range(12):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
            if int(ids[0, -1]) == tokenizer.eos_token_id:
                break
    assert written(loaded) == tokenizer.decode(ids[0, start:], skip_special_tokens=True)
    assert written(loaded) == written(loaded)


def test_sampled_text_repeats_with_its_seed_and_only_then(loaded: Loaded) -> None:
    settings = {"temperature": 1.5, "max_tokens": 24}
    one = written(loaded, seed=1, **settings)
    assert written(loaded, seed=1, **settings) == one
    assert len({one, *(written(loaded, seed=seed, **settings) for seed in (2, 3, 4))}) > 1


def test_a_sample_among_one_token_is_the_greedy_text(loaded: Loaded) -> None:
    assert written(loaded, temperature=2.0, top_k=1, seed=3) == written(loaded)
    assert written(loaded, temperature=2.0, top_p=1e-9, seed=3) == written(loaded)


def test_compressed_and_dense_models_of_all_generating_kinds_write(compressed, parent) -> None:
    for folder in (compressed("gpt2").folder, compressed("t5").folder, parent("qwen3")):
        assert isinstance(written(load(folder), max_tokens=4), str)


@pytest.mark.parametrize(
    "settings",
    [{"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0},
     {"top_p": 1.5}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict[str, Any], loaded: Loaded) -> None:
    with pytest.raises(UsageError, match="expected max-tokens"):
        generate(loaded, "x", **settings)


def test_an_empty_or_too_long_prompt_is_refused(loaded: Loaded) -> None:
    with pytest.raises(UsageError, match="empty"):
        generate(loaded, "")
    with pytest.raises(UsageError, match="256 positions"):
        generate(loaded, "x" * 250, max_tokens=7)
    assert isinstance(written(loaded, "x" * 250, max_tokens=6), str)


@pytest.mark.parametrize("kind", ["bert", "whisper"])
def test_a_model_that_writes_no_text_from_a_prompt_is_refused(kind: str, parent) -> None:
    with pytest.raises(UsageError, match="does not generate text"):
        generate(load(parent(kind)), "x")


def test_a_model_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(UsageError, match="does not generate text"):
        generate(Loaded(tiny_model("llama"), None), "x")


def test_the_chat_template_is_used_when_there_is_one(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    tokenizer = tiny_tokenizer()
    plain = written(Loaded(tiny_model("llama"), tokenizer), "hi")
    tokenizer.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<answer>"
    assert written(Loaded(tiny_model("llama"), tokenizer), "hi") == written(
        Loaded(tiny_model("llama"), tiny_tokenizer()), "<user>hi<answer>"
    )
    assert written(Loaded(tiny_model("llama"), tokenizer), "hi") != plain


def test_a_failure_inside_is_explained(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_kwargs: Any) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(loaded.model, "generate", broken)
    with pytest.raises(RunError, match="no such thing"):
        written(loaded)


def test_nobody_listening_stops_the_thread(loaded: Loaded) -> None:
    pieces = generate(loaded, "The spider", max_tokens=200, temperature=1.5, seed=0)
    next(pieces)
    pieces.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "gossamer-generate"]
