"""How far a model has moved from its parent: KL divergence, agreement of the first choice, ratio of
perplexities.

KL(parent || model) per token = sum over the vocabulary of p * (log p - log q), in nats; it sees every change
of the predictions, where perplexity sees only the probability of the one right token and lets gains hide
losses.

Both models read the same window one after the other, so that only two windows of logits are ever held.

Shapes: P predictions of a window that count, V entries of the vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.data.tokens import Windows
from gossamer.errors import UsageError
from gossamer.evaluation.quality.bootstrap import perplexity_ratio_ci95
from gossamer.evaluation.quality.perplexity import (
    PerplexityResult,
    Predictor,
    cross_entropy,
    row_chunks,
    scored_logits,
    scoring,
    summarise,
)
from gossamer.progress import Count


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model beside its parent on the same windows."""

    model: PerplexityResult
    parent: PerplexityResult
    kl_mean: float
    """Mean over the tokens of KL(parent || model), nats."""
    kl: list[float]
    """The same of each window."""
    top1_agreement: float
    """Share of the tokens for which both rank the same token first, 0..1."""
    perplexity_ratio: float
    perplexity_ratio_ci95: tuple[float, float] | None
    """Paired bootstrap over the windows; None for a single window."""


def compare(
    model: Predictor, parent: Predictor, windows: Windows, progress: Count | None = None, seed: int = 0
) -> Comparison:
    """Measure `model` and `parent` (as in `perplexity`) on the same windows in one pass.

    Raises UsageError when their vocabularies differ in size.
    """
    nll: list[float] = []
    parent_nll: list[float] = []
    kl: list[float] = []
    agreement: list[float] = []
    with scoring(model, parent):
        for index in range(len(windows)):
            parent_logits_PV, target_P = scored_logits(parent, windows, index)
            logits_PV, _ = scored_logits(model, windows, index)
            logits_PV = logits_PV.to(parent_logits_PV.device)
            if logits_PV.shape != parent_logits_PV.shape:
                raise UsageError(
                    f"compare: the model has a vocabulary of {logits_PV.shape[1]}, the parent of "
                    f"{parent_logits_PV.shape[1]}. Only a model and its own parent can be compared."
                )
            kl_P, same_P = divergence(parent_logits_PV, logits_PV)
            kl.append(float(kl_P.double().mean()))
            agreement.append(float(same_P.double().mean()))
            nll.append(float(cross_entropy(logits_PV, target_P).double().mean()))
            parent_nll.append(float(cross_entropy(parent_logits_PV, target_P).double().mean()))
            if progress is not None:
                progress(index + 1, len(windows))
    result, parent_result = summarise(nll, windows, model), summarise(parent_nll, windows, parent)
    counts = result.tokens_per_window
    return Comparison(
        model=result,
        parent=parent_result,
        kl_mean=_weighted_mean(kl, counts),
        kl=kl,
        top1_agreement=_weighted_mean(agreement, counts),
        perplexity_ratio=result.perplexity / parent_result.perplexity,
        perplexity_ratio_ci95=perplexity_ratio_ci95(nll, parent_nll, counts, seed=seed),
    )


def _weighted_mean(values: list[float], counts: list[int]) -> float:
    return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)


def divergence(parent_logits_PV: Tensor, logits_PV: Tensor) -> tuple[Tensor, Tensor]:
    """Return (kl_P in nats, same_P bool: both rank the same token first), in float32, chunk by chunk."""
    kl: list[Tensor] = []
    same: list[Tensor] = []
    for rows in row_chunks(logits_PV):
        parent_PV, model_PV = parent_logits_PV[rows].float(), logits_PV[rows].float()
        same.append(parent_PV.argmax(-1) == model_PV.argmax(-1))
        log_p_PV, log_q_PV = parent_PV.log_softmax(-1), model_PV.log_softmax(-1)
        term_PV = log_p_PV.exp() * (log_p_PV - log_q_PV)
        kl.append(term_PV.masked_fill_(log_p_PV == -torch.inf, 0.0).sum(-1))
    return torch.cat(kl), torch.cat(same)
