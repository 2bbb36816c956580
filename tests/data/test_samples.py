"""Samples: seeded, disjoint, and honest about too little text."""

from dataclasses import replace

import pytest
import torch

from gossamer.data.samples import fingerprint, sample, self_samples
from gossamer.data.tokens import TokenStream
from gossamer.errors import DataError, UsageError
from tests.models import tiny_model, tiny_tokenizer


def stream(num_tokens: int) -> TokenStream:
    return TokenStream(torch.arange(num_tokens), torch.ones(num_tokens, dtype=torch.int64), "text", 1)


def test_samples_are_disjoint_runs_of_the_stream() -> None:
    ids_NL = sample(stream(107), 10, 10, seed=1)
    assert ids_NL.shape == (10, 10)
    assert torch.equal(ids_NL, ids_NL[:, :1] + torch.arange(10))
    assert len(set(ids_NL.flatten().tolist())) == 100


def test_the_seed_alone_decides() -> None:
    text = stream(5000)
    assert torch.equal(sample(text, 5, 20, seed=3), sample(text, 5, 20, seed=3))
    assert not torch.equal(sample(text, 5, 20, seed=3), sample(text, 5, 20, seed=4))


def test_samples_come_from_all_over_the_text() -> None:
    starts = torch.cat([sample(stream(10_000), 10, 10, seed=seed)[:, 0] for seed in range(30)]).float()
    assert 4400 < starts.mean() < 5600
    assert starts.max() > 9000
    assert starts.min() < 1000


def test_samples_open_with_the_start_tokens_and_are_else_those_of_the_stream() -> None:
    plain = stream(5000)
    opened = replace(plain, start=(7001, 7002))
    expected_NL = sample(plain, 5, 20, seed=3)
    expected_NL[:, :2] = torch.tensor([7001, 7002])
    assert torch.equal(sample(opened, 5, 20, seed=3), expected_NL)
    assert torch.equal(opened.ids_T, torch.arange(5000))
    with pytest.raises(UsageError, match="at least 3 tokens"):
        sample(opened, 5, 2)


def test_too_little_text_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        DataError, match=r"text: 4 samples of 30 tokens need 120 tokens, the text has 100.*at most 3"
    ):
        sample(stream(100), 4, 30)
    with pytest.raises(UsageError, match="at least 1 sample"):
        sample(stream(100), 0, 30)


def test_the_fingerprint_changes_with_source_seed_text_length_and_settings() -> None:
    text = stream(1000)
    ids = sample(text, 4, 10, seed=0)
    prints = {
        fingerprint("a", ids),
        fingerprint("b", ids),
        fingerprint("a", sample(text, 4, 10, seed=1)),
        fingerprint("a", sample(text, 4, 11, seed=0)),
        fingerprint("a", ids + 1),
        fingerprint("a", ids.view(8, 5)),
        fingerprint("a", ids, {"seed": 0}),
    }
    assert len(prints) == 7
    assert fingerprint("a", ids) == fingerprint("a", ids.clone())
    assert all(len(digest) == 64 for digest in prints)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_writes_seeded_samples_that_open_with_its_start_token(kind: str) -> None:
    model, tokenizer = tiny_model(kind), tiny_tokenizer()
    calls: list[tuple[int, int]] = []
    ids_NL = self_samples(model, tokenizer, 5, 12, seed=1, batch_size=2, progress=lambda *c: calls.append(c))
    assert ids_NL.shape == (5, 12)
    assert (ids_NL[:, 0] == tokenizer.bos_token_id).all()
    assert torch.equal(ids_NL, self_samples(model, tokenizer, 5, 12, seed=1, batch_size=2))
    assert not torch.equal(ids_NL, self_samples(model, tokenizer, 5, 12, seed=2, batch_size=2))
    assert calls[-1] == (55, 55)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_self_written_samples_open_with_all_that_the_tokenizer_adds_and_carry_gradients() -> None:
    model = tiny_model("llama")
    ids_NL = self_samples(model, tiny_tokenizer("<eos> <bos> $A"), 3, 8, seed=1)
    assert ids_NL[:, :2].tolist() == [[258, 257]] * 3
    assert len(ids_NL[:, 2:].unique()) > 3
    assert not ids_NL.is_inference()
    model(ids_NL).logits.sum().backward()
    assert model.model.embed_tokens.weight.grad is not None


def test_samples_follow_the_models_distribution() -> None:
    model = tiny_model("llama")
    ids_NL = self_samples(model, tiny_tokenizer(), 2000, 2, seed=0, batch_size=2000)
    with torch.inference_mode():
        expected_V = model(torch.tensor([[257]])).logits[0, -1].softmax(-1)
    observed_V = torch.bincount(ids_NL[:, 1], minlength=260) / 2000
    assert (observed_V - expected_V).abs().sum() < 0.35
    # the cache carries the context: the likelihood of the samples is that of a full forward pass
    ids_NL = self_samples(model, tiny_tokenizer(), 64, 20, seed=0, batch_size=64)
    with torch.inference_mode():
        log_p = model(ids_NL).logits[:, :-1].log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1).mean()
        nll = -log_p.gather(-1, ids_NL[:, 1:, None]).mean()
    assert abs(float(nll - entropy)) < 0.15


def test_models_that_cannot_write_are_refused() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    with pytest.raises(DataError, match="positions for 256"):
        self_samples(model, tokenizer, 1, 300)
    enlarged = tiny_tokenizer()
    enlarged.add_special_tokens({"bos_token": "<new>"})
    with pytest.raises(DataError, match=r"no embedding for: 260 \('<new>'\)"):
        self_samples(model, enlarged, 1, 4)
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(DataError, match="NaN"):
        self_samples(model, tokenizer, 1, 4)
    tokenizer.bos_token = tokenizer.eos_token = None
    model.config.bos_token_id = model.config.eos_token_id = None
    with pytest.raises(DataError, match="neither a beginning nor an end"):
        self_samples(model, tokenizer, 1, 4)
