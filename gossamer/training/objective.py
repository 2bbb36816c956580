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
from transformers import PreTrainedModel

from gossamer.calibration.observe import main_output
from gossamer.training.shown import Shown
from gossamer.training.teacher import Teacher


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of the parts of the loss."""

    temperature: float = 1.0
    labels: float = 0.0
    hidden: float = 0.0


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of some windows: what to differentiate, and the distance in it."""

    total: Tensor
    distance: float
    """From the teacher: mean KL of a token at the objective's temperature, nats; or the error of the embeddings."""


def loss_of(
    model: PreTrainedModel,
    teacher: Teacher,
    objective: Objective,
    numbers: Sequence[int],
    ids_BL: Tensor,
    shown: Shown,
) -> Loss:
    """Return the mean loss over what counts of these windows."""
    seen_BL = shown.ids(numbers, ids_BL)
    answer = teacher.answer(numbers, seen_BL, hidden=objective.hidden > 0)
    output = model(seen_BL, output_hidden_states=objective.hidden > 0)
    own_BLV = main_output(output)
    distance = answer.divergence(own_BLV.flatten(0, 1), shown.weights(numbers, ids_BL), objective.temperature)
    total = distance
    if objective.labels:
        total = total + objective.labels * shown.cross_entropy(numbers, ids_BL, own_BLV)
    if objective.hidden:
        total = total + objective.hidden * square_head(output.hidden_states, answer.hidden)
    return Loss(total, float(distance.detach()) / objective.temperature**2)


def square_head(hidden: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the mean over the layers behind the embedding of |h - h_t|^2 / |h_t|^2."""
    errors = [
        (own.float() - other.float()).square().mean() / other.float().square().mean().clamp_min(1e-12)
        for own, other in zip(hidden[1:], wanted[1:], strict=True)
    ]
    return torch.stack(errors).mean()
