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

import torch
from torch import Tensor

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
    log_total_B1 = logits_BV.logsumexp(-1, keepdim=True)
    log_student_BK = logits_BV.gather(-1, lesson.ids_BK) - log_total_B1
    if isinstance(lesson, Samples):
        return -log_student_BK.mean(-1) - lesson.entropy_B
    kept_B = (lesson.log_probs_BK.exp() * (lesson.log_probs_BK - log_student_BK)).sum(-1)
    if lesson.ids_BK.shape[-1] == lesson.vocabulary:
        return kept_B
    log_others_B = logits_BV.scatter(-1, lesson.ids_BK, -torch.inf).logsumexp(-1) - log_total_B1[..., 0]
    return kept_B + lesson.log_rest_B.exp() * (lesson.log_rest_B - log_others_B)
