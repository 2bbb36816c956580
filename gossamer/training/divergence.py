"""KL(teacher || student) over the whole vocabulary, and its gradient in the same pass.

    KL_T = sum over V of p (log p - log q)      p = softmax(t / tau), q = softmax(z / tau)
    d tau^2 KL / dz = tau (q - p)

The factor tau^2 keeps gradients alike at all temperatures (Hinton et al. 2015, arXiv 1503.02531, section 2). The
gradient takes the place of the teacher's logits, so that logits are held twice and not four times; softmaxes are
computed in float32 over a few rows at a time, which stay in the cache.

T tokens, V entries of the vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from gossamer.evaluation.quality.perplexity import row_chunks


def divergence(logits_TV: Tensor, teacher_TV: Tensor, weight_T: Tensor, temperature: float) -> Tensor:
    """Return tau^2 * sum over T of weight * KL. The teacher's logits may be overwritten."""
    total: Tensor = _Divergence.apply(logits_TV, teacher_TV, weight_T, temperature, logits_TV.requires_grad)
    return total


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_TV: Tensor,
        teacher_TV: Tensor,
        weight_T: Tensor,
        temperature: float,
        differentiate: bool,
    ) -> Tensor:
        total = torch.zeros((), device=logits_TV.device)
        reuse = teacher_TV.dtype == logits_TV.dtype
        gradient_TV = teacher_TV if reuse or not differentiate else torch.empty_like(logits_TV)
        for rows in row_chunks(logits_TV):
            log_p_RV = (teacher_TV[rows].float() / temperature).log_softmax(-1)
            log_q_RV = (logits_TV[rows].float() / temperature).log_softmax(-1)
            p_RV = log_p_RV.exp()
            term_RV = p_RV * log_p_RV.sub_(log_q_RV)
            kl_R = term_RV.masked_fill_(p_RV == 0, 0.0).sum(-1)
            total += (kl_R * weight_T[rows]).sum()
            if differentiate:
                gradient_TV[rows] = log_q_RV.exp_().sub_(p_RV).mul_(temperature * weight_T[rows, None])
        ctx.gradient_TV = gradient_TV if differentiate else None
        return total * temperature**2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        gradient_TV, ctx.gradient_TV = ctx.gradient_TV, None
        return gradient_TV.mul_(gradients[0]), None, None, None, None
