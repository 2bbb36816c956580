"""Divergence against float64, and the facts that must hold for any pair of models."""

import pytest
import torch

from gossamer.errors import UsageError
from gossamer.evaluation.quality import perplexity as perplexity_module
from gossamer.evaluation.quality.divergence import compare, divergence
from gossamer.evaluation.quality.perplexity import perplexity
from tests.evaluation.quality.test_perplexity import make_windows
from tests.models import tiny_model


def test_a_model_does_not_diverge_from_itself() -> None:
    model = tiny_model("llama", hidden_size=32)
    result = compare(model, model, make_windows())
    assert result.kl_mean == 0
    assert result.top1_agreement == 1
    assert result.perplexity_ratio == 1
    assert result.perplexity_ratio_ci95 == (1, 1)


def test_divergence_matches_the_definition_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    model, parent, windows = tiny_model("llama", seed=1), tiny_model("llama", seed=0), make_windows()
    monkeypatch.setattr(perplexity_module, "CHUNK_BYTES", 4 * 260 * 4)  # several chunks in a window
    result = compare(model, parent, windows)
    with torch.inference_mode():
        log_p = parent.double()(windows.ids_NL).logits[:, :-1].log_softmax(-1)
        log_q = model.double()(windows.ids_NL).logits[:, :-1].log_softmax(-1)
    kl_NP = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert result.kl_mean == pytest.approx(float(kl_NP.mean()), rel=1e-5)
    assert result.kl == pytest.approx(kl_NP.mean(1).tolist(), rel=1e-5)
    assert result.top1_agreement == pytest.approx(
        float((log_p.argmax(-1) == log_q.argmax(-1)).double().mean())
    )
    model.float()
    parent.float()
    assert result.model == perplexity(model, windows)
    assert result.parent == perplexity(parent, windows)
    assert result.perplexity_ratio == pytest.approx(result.model.perplexity / result.parent.perplexity)
    low, high = result.perplexity_ratio_ci95 or (0, 0)
    assert low <= result.perplexity_ratio <= high
    assert low < high


def test_overlapping_windows_weigh_tokens_alike() -> None:
    model, parent, windows = tiny_model("llama", seed=1), tiny_model("llama"), make_windows(num=3, stride=4)
    result = compare(model, parent, windows)
    assert result.model == perplexity(model, windows)
    assert result.kl_mean == pytest.approx((15 * result.kl[0] + 4 * result.kl[1] + 4 * result.kl[2]) / 23)


def test_tokens_that_the_parent_excludes_add_nothing() -> None:
    parent_PV = torch.tensor([[0.0, 0.0, -torch.inf]])
    kl_P, same_P = divergence(parent_PV, torch.tensor([[0.0, 0.0, -torch.inf]]))
    assert kl_P.tolist() == [0]
    assert same_P.tolist() == [True]
    kl_P, _ = divergence(parent_PV, torch.tensor([[0.0, 0.0, 0.0]]))
    assert kl_P.tolist() == pytest.approx([float(torch.tensor(1.5).log())])


def test_models_with_other_vocabularies_are_refused() -> None:
    with pytest.raises(UsageError, match="vocabulary of 270, the parent of 260"):
        compare(tiny_model("llama", vocab_size=270), tiny_model("llama"), make_windows())
