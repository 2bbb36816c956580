"""How far a student is from a lesson, for each token: differentiable, in plain torch.

Top k and rest: KL(teacher || student) over k + 1 outcomes, the k ids and "any other". It is a divergence of two
distributions: at least 0, and 0 only where the student gives all k + 1 what the teacher gives them; what the student
does within the rest is free. By the inequality of log sums it is at most the KL over the whole vocabulary.

    kl = sum_i p_i (log p_i - log q_i) + p_rest (log p_rest - log q_rest)

Samples: the cross entropy of the drawn ids less the teacher's entropy. Over many draws the mean of value and gradient
is that of the whole KL; a single one may be below 0.

B... any leading axes, V entries of the vocabulary, K ids kept of a token.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gossamer.errors import UsageError


@dataclass(frozen=True, slots=True)
class TopK:
    """The likeliest tokens, and what is left."""

    ids_BK: Tensor
    """int64, rising."""
    log_probs_BK: Tensor
    log_rest_B: Tensor
    """Of the mass of all other tokens; -inf where there are none."""
    vocabulary: int

    def to(self, device: torch.device | str) -> "TopK":
        """The same on another device."""
        return TopK(
            self.ids_BK.to(device), self.log_probs_BK.to(device), self.log_rest_B.to(device), self.vocabulary
        )


@dataclass(frozen=True, slots=True)
class Samples:
    """Tokens drawn from the teacher's distribution, each as often as it was drawn."""

    ids_BK: Tensor
    """int64, rising."""
    entropy_B: Tensor
    """Of the teacher's whole distribution, nats."""
    vocabulary: int

    def to(self, device: torch.device | str) -> "Samples":
        """The same on another device."""
        return Samples(self.ids_BK.to(device), self.entropy_B.to(device), self.vocabulary)


Lesson = TopK | Samples


def kl(logits_BV: Tensor, lesson: Lesson) -> Tensor:
    """Return kl_B in nats (float32): how far a student's logits are from a lesson.

    Source: of samples, arXiv 2503.16870. UsageError for logits of another vocabulary or other tokens.
    """
    expected = (*lesson.ids_BK.shape[:-1], lesson.vocabulary)
    if logits_BV.shape != expected:
        raise UsageError(
            f"lessons: expected logits of shape {expected}, got {tuple(logits_BV.shape)}. "
            "Lessons teach only students of the same vocabulary, on the same tokens."
        )
    logits_BV = logits_BV.float()
    if isinstance(lesson, Samples):
        log_total_B = logits_BV.logsumexp(-1)
        return log_total_B - logits_BV.gather(-1, lesson.ids_BK).mean(-1) - lesson.entropy_B
    kl_B: Tensor = _TopKDivergence.apply(logits_BV, lesson.ids_BK, lesson.log_probs_BK, lesson.log_rest_B)
    return kl_B


class _TopKDivergence(torch.autograd.Function):
    """The divergence over k + 1 outcomes, with one exponential of each logit for value and gradient.

    d kl / d logit_v = P q_v - p_v for the k tokens, and q_v (P - p_rest / q_rest) for the others; P: sum of all p.
    """

    @staticmethod
    def forward(
        context: Any, logits_BV: Tensor, ids_BK: Tensor, log_probs_BK: Tensor, log_rest_B: Tensor
    ) -> Tensor:
        top_B1 = logits_BV.amax(-1, keepdim=True)
        others_BV = (logits_BV - top_B1).exp_()
        kept_BK = others_BV.gather(-1, ids_BK)
        others_BV.scatter_(-1, ids_BK, 0.0)
        others_B = others_BV.sum(-1).clamp(min=torch.finfo(torch.float32).tiny)
        total_B = others_B + kept_BK.sum(-1)
        probs_BK, rest_B = log_probs_BK.exp(), log_rest_B.exp()
        log_student_BK = logits_BV.gather(-1, ids_BK) - top_B1 - total_B.log()[..., None]
        of_rest_B = rest_B * (log_rest_B - others_B.log() + total_B.log())
        of_kept_B = (probs_BK * (log_probs_BK - log_student_BK)).sum(-1)
        context.save_for_backward(others_BV, others_B, kept_BK, total_B, ids_BK, probs_BK, rest_B)
        return of_kept_B + torch.where(rest_B > 0, of_rest_B, 0.0)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient_B: Tensor) -> tuple[Tensor, None, None, None]:
        others_BV, others_B, kept_BK, total_B, ids_BK, probs_BK, rest_B = context.saved_tensors
        per_unit_B = (probs_BK.sum(-1) + rest_B) / total_B
        gradient_BV = others_BV * (gradient_B * (per_unit_B - rest_B / others_B))[..., None]
        of_kept_BK = gradient_B[..., None] * (kept_BK * per_unit_B[..., None] - probs_BK)
        return gradient_BV.scatter_(-1, ids_BK, of_kept_BK), None, None, None
