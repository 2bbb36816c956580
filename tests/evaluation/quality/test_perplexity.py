"""Perplexity against a direct computation in float64."""

import math
from dataclasses import replace

import pytest
import torch

from gossamer.data.tokens import Windows
from gossamer.errors import UsageError
from gossamer.evaluation.quality import perplexity as module
from gossamer.evaluation.quality.perplexity import cross_entropy, perplexity
from tests.models import tiny_model


def make_windows(num: int = 3, length: int = 16, stride: int | None = None, seed: int = 0) -> Windows:
    stride = stride or length
    generator = torch.Generator().manual_seed(seed)
    ids_T = torch.randint(0, 256, (length + (num - 1) * stride,), generator=generator)
    bytes_T = torch.randint(1, 5, ids_T.shape, generator=generator)
    return Windows(ids_T.unfold(0, length, stride), bytes_T.unfold(0, length, stride), stride, "text")


@torch.inference_mode()
def direct(model: torch.nn.Module, ids_NL: torch.Tensor) -> torch.Tensor:
    """nll_NP in float64, straight from the definition."""
    log_p = model.double()(ids_NL).logits[:, :-1].log_softmax(-1)
    nll_NP = -log_p.gather(-1, ids_NL[:, 1:, None])[..., 0]
    model.float()
    return nll_NP


def test_perplexity_is_exp_of_the_mean_cross_entropy_of_the_windows() -> None:
    model, windows = tiny_model("llama", hidden_size=32), make_windows()
    nll_NP = direct(model, windows.ids_NL)
    result = perplexity(model, windows)
    assert result.perplexity == pytest.approx(float(nll_NP.mean().exp()), rel=1e-5)
    assert result.nll == pytest.approx(nll_NP.mean(1).tolist(), rel=1e-5)
    assert (result.tokens, result.tokens_per_window) == (45, [15, 15, 15])
    expected = float(nll_NP.sum()) / math.log(2) / int(windows.bytes_NL[:, 1:].sum())
    assert result.bits_per_byte == pytest.approx(expected, rel=1e-5)


def test_overlapping_windows_score_every_token_once() -> None:
    model, windows = tiny_model("llama"), make_windows(num=4, length=16, stride=5)
    nll_NP = direct(model, windows.ids_NL)
    scored = [nll_NP[0], *(row[-5:] for row in nll_NP[1:])]
    result = perplexity(model, windows)
    assert result.tokens_per_window == [15, 5, 5, 5]
    assert result.perplexity == pytest.approx(float(torch.cat(scored).mean().exp()), rel=1e-5)
    num_bytes = int(windows.bytes_NL[0, 1:].sum() + windows.bytes_NL[1:, -5:].sum())
    assert result.bits_per_byte == pytest.approx(
        float(torch.cat(scored).sum()) / math.log(2) / num_bytes, rel=1e-5
    )


def test_start_tokens_are_never_targets() -> None:
    model, plain = tiny_model("llama"), make_windows(num=3, length=16)
    for start, name in (((257,), "seqlen-1"), ((258, 257), "seqlen-2")):
        ids_NL = plain.ids_NL.clone()
        ids_NL[:, : len(start)] = torch.tensor(start)
        windows = replace(plain, ids_NL=ids_NL, start=start)
        result = perplexity(model, windows)
        scored = direct(model, ids_NL)[:, len(start) - 1 :]
        assert result.perplexity == pytest.approx(float(scored.mean().exp()), rel=1e-5)
        assert result.tokens == 3 * (16 - len(start))
        assert f"|bos:each|L:16|stride:16|N:3|tail:drop|red:{name}|" in result.signature


def test_the_signature_of_windows_without_a_start_token_is_as_it_was() -> None:
    windows = make_windows()
    expected = (
        f"ppl|d:text:{windows.sha8}|join:\\n\\n|bos:0|L:16|stride:16|N:3|tail:drop|red:seqlen-1|dtype:f32|v:1"
    )
    assert perplexity(tiny_model("llama"), windows).signature == expected


def test_a_uniform_model_has_the_vocabulary_as_its_perplexity() -> None:
    windows = make_windows()
    result = perplexity(lambda ids_BL: torch.zeros(*ids_BL.shape, 260), windows)
    assert result.perplexity == pytest.approx(260)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_PV, target_P = torch.randn(13, 50), torch.randint(0, 50, (13,))
    whole = cross_entropy(logits_PV, target_P)
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 50 * 3)
    assert torch.equal(cross_entropy(logits_PV, target_P), whole)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    assert torch.equal(
        cross_entropy(logits_PV.bfloat16(), target_P), cross_entropy(logits_PV.bfloat16().float(), target_P)
    )


def test_the_signature_says_what_was_measured() -> None:
    windows = make_windows()
    result = perplexity(tiny_model("llama"), windows)
    assert result.signature == (
        f"ppl|d:text:{windows.sha8}|join:\\n\\n|bos:0|L:16|stride:16|N:3|tail:drop|red:seqlen-1|dtype:f32|v:1"
    )
    assert "dtype:bf16" in perplexity(tiny_model("llama").bfloat16(), windows).signature
    assert (
        "stride:5|N:3|tail:drop|red:stride"
        in perplexity(tiny_model("llama"), make_windows(stride=5)).signature
    )
    assert make_windows(seed=1).sha8 != windows.sha8


def test_the_model_is_left_as_it_was_and_progress_is_told() -> None:
    model = tiny_model("gpt2").train()
    calls: list[tuple[int, int]] = []
    first = perplexity(model, make_windows(), lambda done, total: calls.append((done, total)))
    assert model.training
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert first == perplexity(model, make_windows())  # dropout was off


def test_a_hopeless_model_has_infinite_perplexity_instead_of_failing() -> None:
    assert (
        perplexity(
            lambda ids_BL: torch.arange(260.0).mul(-1e4).expand(*ids_BL.shape, 260), make_windows()
        ).perplexity
        == math.inf
    )
    assert math.isnan(
        perplexity(lambda ids_BL: torch.full((*ids_BL.shape, 260), math.nan), make_windows()).perplexity
    )


def test_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="outside the model's vocabulary"):
        perplexity(
            tiny_model("llama", vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2),
            make_windows(),
        )
    with pytest.raises(UsageError, match="expected logits of shape"):
        perplexity(lambda ids_BL: torch.zeros(1, 3, 260), make_windows())
