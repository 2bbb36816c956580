"""Pseudo-perplexity against masking by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel

from gossamer.errors import UsageError
from gossamer.evaluation.quality.pseudo_perplexity import pseudo_perplexity
from tests.evaluation.quality.test_perplexity import make_windows
from tests.models import tiny_model

TOKENIZER = SimpleNamespace(mask_token_id=259, cls_token_id=257, sep_token_id=258)


@torch.inference_mode()
def direct(model: PreTrainedModel, ids_L: torch.Tensor, positions: list[int]) -> list[float]:
    nll: list[float] = []
    for position in positions:
        masked = torch.tensor([[257, *ids_L.tolist(), 258]])
        masked[0, position + 1] = 259
        nll.append(-float(model(masked).logits[0, position + 1].double().log_softmax(-1)[ids_L[position]]))
    return nll


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_each_token_is_masked_alone(kind: str) -> None:
    model, windows = tiny_model(kind), make_windows(num=2, length=7)
    nll = [direct(model, row, list(range(7))) for row in windows.ids_NL]
    result = pseudo_perplexity(model, TOKENIZER, windows, batch_size=3)
    assert result.nll == pytest.approx([sum(row) / 7 for row in nll], rel=1e-4)
    assert result.pseudo_perplexity == pytest.approx(float(torch.tensor(nll).mean().exp()), rel=1e-4)
    assert result.tokens == 14
    assert result.signature == f"pppl|d:text:{windows.sha8}|L:7|stride:7|N:2|mask:each|dtype:f32|v:1"


def test_start_tokens_are_never_masked() -> None:
    model = tiny_model("bert")
    plain = make_windows(num=2, length=7)
    windows = replace(plain, start=(int(plain.ids_NL[0, 0]),))
    nll = [direct(model, row, list(range(1, 7))) for row in windows.ids_NL]
    result = pseudo_perplexity(model, TOKENIZER, windows)
    assert result.nll == pytest.approx([sum(row) / 6 for row in nll], rel=1e-4)
    assert (result.tokens, "|bos:each|" in result.signature) == (12, True)


def test_a_seeded_choice_of_positions_repeats() -> None:
    model, windows = tiny_model("bert"), make_windows(num=2, length=9)
    result = pseudo_perplexity(model, TOKENIZER, windows, positions=4, seed=2)
    assert result == pseudo_perplexity(model, TOKENIZER, windows, positions=4, seed=2)
    assert result != pseudo_perplexity(model, TOKENIZER, windows, positions=4, seed=3)
    assert (result.tokens, "mask:4:seed2" in result.signature) == (8, True)
    each = pseudo_perplexity(model, TOKENIZER, windows, positions=99)
    assert each == pseudo_perplexity(model, TOKENIZER, windows)


def test_tokenizers_and_models_without_masks_are_refused() -> None:
    with pytest.raises(UsageError, match="no mask token"):
        pseudo_perplexity(tiny_model("llama"), SimpleNamespace(mask_token_id=None), make_windows())
    with pytest.raises(UsageError, match="AutoModelForMaskedLM"):
        pseudo_perplexity(tiny_model("bert").base_model, TOKENIZER, make_windows())
