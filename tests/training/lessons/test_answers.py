"""What is kept of a teacher's answer, against the whole distribution."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gossamer.errors import FormatError, RunError
from gossamer.training.lessons.answers import (
    SAMPLES,
    TOP_K,
    Form,
    decode_samples,
    decode_top_k,
    encode,
    mixture,
)


def peaked_logits(tokens: int, vocabulary: int, seed: int = 0) -> Tensor:
    """Logits whose probabilities fall as those of words do, some flat and some steep."""
    generator = torch.Generator().manual_seed(seed)
    steep_T1 = 0.7 + torch.rand(tokens, 1, generator=generator)
    rank_TV = torch.stack([torch.randperm(vocabulary, generator=generator) for _ in range(tokens)])
    noise_TV = 0.3 * torch.randn(tokens, vocabulary, generator=generator)
    return -steep_T1 * (rank_TV + 1).log() + noise_TV


def top_k(logits_TV: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    form = Form(TOP_K, k, logits_TV.shape[1])
    arrays = encode(logits_TV.log_softmax(-1), form, torch.Generator())
    ids, log_probs, log_rest = decode_top_k(form, arrays["code"], arrays["log_rest"], arrays["span"])
    return torch.from_numpy(ids), torch.from_numpy(log_probs), torch.from_numpy(log_rest)


@pytest.mark.parametrize(("vocabulary", "k"), [(49_152, 50), (2_000, 1), (300, 299), (260, 260)])
def test_the_likeliest_tokens_and_the_rest_are_kept_and_sum_to_one(vocabulary: int, k: int) -> None:
    logits_TV = peaked_logits(12, vocabulary)
    probs_TV = logits_TV.double().softmax(-1)
    ids_TK, log_probs_TK, log_rest_T = top_k(logits_TV, k)
    for ids_K, probs_V, log_rest in zip(ids_TK, probs_TV, log_rest_T, strict=True):
        assert set(ids_K.tolist()) == set(probs_V.argsort(descending=True)[:k].tolist())
        rest = float(probs_V.sum() - probs_V[ids_K].sum())
        assert math.exp(log_rest) == pytest.approx(rest, rel=5e-3, abs=1e-12)
    total_T = log_probs_TK.double().exp().sum(-1) + log_rest_T.double().exp()
    torch.testing.assert_close(total_T, torch.ones_like(total_T), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("vocabulary", "bound"), [(49_152, 5e-4), (151_936, 8e-3)])
def test_rounding_moves_what_is_kept_by_less_than_a_bound(vocabulary: int, bound: float) -> None:
    logits_TV = peaked_logits(24, vocabulary)
    log_true_TK = logits_TV.double().log_softmax(-1)
    ids_TK, log_probs_TK, log_rest_T = top_k(logits_TV, 50)
    log_true_TK = log_true_TK.gather(-1, ids_TK)
    rest_T = 1 - log_true_TK.exp().sum(-1)
    kl_T = (log_true_TK.exp() * (log_true_TK - log_probs_TK)).sum(-1) + rest_T * (rest_T.log() - log_rest_T)
    assert bound / 50 < float(kl_T.mean()) < bound


def test_a_token_takes_at_most_120_bytes_at_k_50_for_vocabularies_up_to_that_of_qwen() -> None:
    assert {size: Form(TOP_K, 50, size).token_bytes for size in (32_000, 49_152, 65_536, 128_256, 151_936)} == {
        32_000: 114, 49_152: 118, 65_536: 114, 128_256: 116, 151_936: 118,
    }  # fmt: skip
    bits = [Form(TOP_K, 50, vocabulary).level_bits for vocabulary in (49_152, 65_536, 151_936)]
    assert bits == [6, 5, 4]
    assert Form(SAMPLES, 50, 49_152).token_bytes == 79


def test_flat_and_certain_answers_survive_float16() -> None:
    flat = torch.zeros(1, 60_000)
    certain = torch.zeros(1, 60_000)
    certain[0, 7] = 200.0
    far = torch.zeros(1, 60_000)
    far[0, :2] = 1e6
    for logits_TV, k in ((flat, 1), (certain, 1), (certain, 5), (far, 2), (far, 3)):
        _, log_probs_TK, log_rest_T = top_k(logits_TV, k)
        assert bool(torch.isfinite(log_probs_TK).all())
        assert bool(torch.isfinite(log_rest_T).all())
        assert float(log_probs_TK.exp().sum() + log_rest_T.exp().sum()) == pytest.approx(1, abs=1e-6)


def test_samples_come_as_often_as_the_teacher_would_say_them_and_are_repeatable() -> None:
    logits_TV = peaked_logits(2, 300)
    form = Form(SAMPLES, 20_000, 300)

    def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
        arrays = encode(logits_TV.log_softmax(-1), form, torch.Generator().manual_seed(seed))
        return decode_samples(form, arrays["code"], arrays["entropy"])

    ids_TK, entropy_T = drawn(0)
    probs_TV = logits_TV.double().softmax(-1)
    for ids_K, probs_V in zip(ids_TK, probs_TV, strict=True):
        counts_V = torch.from_numpy(np.bincount(ids_K, minlength=300))
        deviation_V = (counts_V - 20_000 * probs_V) / (20_000 * probs_V * (1 - probs_V)).sqrt()
        assert float(deviation_V[20_000 * probs_V > 20].abs().max()) < 4.5
    np.testing.assert_allclose(entropy_T, torch.special.entr(probs_TV).sum(-1), rtol=1e-3)
    assert (ids_TK == drawn(0)[0]).all()
    assert not (ids_TK == drawn(1)[0]).all()


def test_several_teachers_give_the_mean_of_their_probabilities() -> None:
    logits = [peaked_logits(40, 3_000, seed) for seed in range(3)]
    got_TV = torch.cat([chunk.exp() for chunk in mixture(logits, "x")])
    torch.testing.assert_close(got_TV, torch.stack([each.softmax(-1) for each in logits]).mean(0))


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_broken_logits_are_told(broken: float) -> None:
    logits_TV = torch.zeros(2, 9)
    logits_TV[1, 3] = broken
    with pytest.raises(RunError, match=r"my-teacher.*NaN or infinite"):
        list(mixture([logits_TV], "my-teacher"))


def test_numbers_that_no_teacher_gives_are_refused() -> None:
    form = Form(TOP_K, 5, 300)
    good = encode(peaked_logits(3, 300).log_softmax(-1), form, torch.Generator())

    def read(**changes: np.ndarray) -> None:
        arrays = {**good, **changes}
        decode_top_k(form, arrays["code"], arrays["log_rest"], arrays["span"])

    read()
    for value in (0.0, 1.0, math.nan, math.inf, -math.inf):
        with pytest.raises(FormatError, match="rest"):
            read(log_rest=np.full(3, value, dtype=np.float16))
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(FormatError, match="spans"):
            read(span=np.full(3, value, dtype=np.float16))
    twice = form.code.encode(np.array([[1, 2, 2, 3, 4]] * 3), np.zeros((3, 5), dtype=np.int64))
    with pytest.raises(FormatError, match="twice"):
        read(code=twice)
    drawn = Form(SAMPLES, 5, 300)
    with pytest.raises(FormatError, match="entropies"):
        decode_samples(
            drawn, drawn.code.encode(np.array([[1, 2, 2, 3, 4]])), np.array([math.nan], np.float16)
        )
