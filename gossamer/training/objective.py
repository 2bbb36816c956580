"""What is minimised: KL to the teacher, with the text's own tokens and the teacher's hidden states where asked.

    loss = tau^2 KL(teacher || student) + labels * cross entropy + hidden * mean over layers |h - h_t|^2 / |h_t|^2

The last is SquareHead (Kurtic et al. 2023, arXiv 2310.06927): each layer's squared error over the teacher's mean
square. KL alone, the default, cannot gain by learning what the text is about.

B windows of L tokens, T = B L tokens, V entries of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from gossamer.training.teacher import Teacher


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of the parts of the loss."""

    temperature: float = 1.0
    labels: float = 0.0
    hidden: float = 0.0


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of some windows: what to differentiate, and the divergence in it."""

    total: Tensor
    kl: float
    """Mean KL of a token at the objective's temperature, nats."""


def loss_of(
    model: PreTrainedModel,
    teacher: Teacher,
    objective: Objective,
    numbers: Sequence[int],
    ids_BL: Tensor,
    first: int,
) -> Loss:
    """Return the mean loss over the predictions of these windows, those of tokens from `first` on."""
    answer = teacher.answer(numbers, ids_BL, hidden=objective.hidden > 0)
    output = model(ids_BL, use_cache=False, output_hidden_states=objective.hidden > 0)
    logits_TV = output.logits.flatten(0, 1)
    weight_T = weights_of(ids_BL, first)
    kl = answer.divergence(logits_TV, weight_T, objective.temperature)
    total = kl
    if objective.labels:
        total = total + objective.labels * cross_entropy(output.logits, ids_BL, first)
    if objective.hidden:
        total = total + objective.hidden * square_head(output.hidden_states, answer.hidden)
    return Loss(total, float(kl.detach()) / objective.temperature**2)


def weights_of(ids_BL: Tensor, first: int) -> Tensor:
    """Return the share of each position's prediction in a mean over those of the tokens from `first` on."""
    weight_BL = torch.zeros(ids_BL.shape)
    weight_BL[:, first - 1 : -1] = 1.0
    return (weight_BL / weight_BL.sum()).flatten()


def square_head(hidden: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the mean over the layers behind the embedding of |h - h_t|^2 / |h_t|^2."""
    errors = [
        (own.float() - other.float()).square().mean() / other.float().square().mean().clamp_min(1e-12)
        for own, other in zip(hidden[1:], wanted[1:], strict=True)
    ]
    return torch.stack(errors).mean()


def cross_entropy(logits_BLV: Tensor, ids_BL: Tensor, first: int) -> Tensor:
    """Return the mean cross entropy of the tokens from `first` on, nats."""
    predicted_PV = logits_BLV[:, first - 1 : -1].flatten(0, 1).float()
    return functional.cross_entropy(predicted_PV, ids_BL[:, first:].flatten())
