"""Pseudo-perplexity of a masked language model.

Source: Salazar et al. 2020, "Masked Language Model Scoring" (arXiv 1910.14659), eq. 1-2: each token in turn
is masked and predicted from all others; pseudo-perplexity = exp(- mean log probability). It is not comparable
with the perplexity of a causal model, only with another masked model over the same tokens.

Shapes: N windows, L tokens in a window (without the special tokens around), B masked copies in a batch, V
vocabulary. Cost: one forward pass of the window for each masked position.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gossamer.data.tokens import Windows
from gossamer.errors import UsageError
from gossamer.evaluation.quality.perplexity import cross_entropy, dtype_name, scoring
from gossamer.progress import Count


@dataclass(frozen=True, slots=True)
class PseudoPerplexityResult:
    """What was measured, and its signature."""

    pseudo_perplexity: float
    nll: list[float]
    """Mean cross entropy in nats over the masked positions of each window."""
    tokens: int
    signature: str


def pseudo_perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    windows: Windows,
    *,
    positions: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    progress: Count | None = None,
) -> PseudoPerplexityResult:
    """Mask the tokens of each window one by one and measure how well `model` finds them.

    Each window is wrapped in the tokenizer's [CLS] and [SEP]; start tokens are never masked. `positions` takes a seeded
    random choice of that many positions of each window instead of all. `progress` counts windows.

    Raises UsageError when the tokenizer has no mask token or the model gives no logits over the vocabulary.
    """
    mask = getattr(tokenizer, "mask_token_id", None)
    if mask is None:
        raise UsageError(
            "pseudo-perplexity: the tokenizer has no mask token. Use perplexity for causal models."
        )
    generator = torch.Generator().manual_seed(seed)
    first = len(windows.start)
    choices = windows.length - first
    count = choices if positions is None else min(positions, choices)
    nll: list[float] = []
    with scoring(model):
        for index in range(len(windows)):
            chosen_P = torch.arange(choices)
            if count < choices:
                chosen_P = torch.randperm(choices, generator=generator)[:count].sort().values
            ids_L, shift = _wrapped(windows.ids_NL[index], tokenizer)
            parts = [
                _masked_nll(model, ids_L, position_B + first + shift, mask)
                for position_B in chosen_P.split(batch_size)
            ]
            nll.append(float(torch.cat(parts).double().mean()))
            if progress is not None:
                progress(index + 1, len(windows))
    mean = math.fsum(nll) / len(nll)
    bos = "|bos:each" if windows.start else ""
    chosen = "each" if count == choices else f"{count}:seed{seed}"
    return PseudoPerplexityResult(
        pseudo_perplexity=math.inf if mean > 700 else math.exp(mean),
        nll=nll,
        tokens=count * len(windows),
        signature=(
            f"pppl|d:{windows.name}:{windows.sha8}{bos}|L:{windows.length}|stride:{windows.stride}|N:{len(windows)}"
            f"|mask:{chosen}|dtype:{dtype_name(model)}|v:1"
        ),
    )


def _wrapped(ids_L: Tensor, tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, int]:
    """Return the tokens between [CLS] and [SEP] (as far as the tokenizer has them), and how far they
    moved."""
    before = [token for token in [getattr(tokenizer, "cls_token_id", None)] if token is not None]
    after = [token for token in [getattr(tokenizer, "sep_token_id", None)] if token is not None]
    return torch.cat(
        [torch.tensor(before, dtype=torch.int64), ids_L, torch.tensor(after, dtype=torch.int64)]
    ), len(before)


def _masked_nll(model: PreTrainedModel, ids_L: Tensor, position_B: Tensor, mask: int) -> Tensor:
    """Return nll_B: the cross entropy at each position when it alone is masked."""
    row_B = torch.arange(len(position_B))
    ids_BL = ids_L.repeat(len(position_B), 1)
    ids_BL[row_B, position_B] = mask
    output = model(ids_BL.to(getattr(model, "device", "cpu")))
    logits_BLV = getattr(output, "logits", None)
    if logits_BLV is None or logits_BLV.shape[:2] != ids_BL.shape:
        raise UsageError(
            "pseudo-perplexity: the model gives no logits over the vocabulary. Load it with "
            "AutoModelForMaskedLM; for an encoder without a language head compare embeddings instead."
        )
    logits_BV = logits_BLV[row_B, position_B]
    return cross_entropy(logits_BV, ids_L[position_B].to(logits_BV.device)).cpu()
