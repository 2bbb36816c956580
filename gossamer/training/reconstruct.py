"""Block reconstruction: train what is left of a compressed block to return what the dense block returned.

After its linears are pruned one by one, the weights that stay, and norms and biases, are trained together on the
block's own output, with the inputs that the compressed blocks before really give (the transformer matching of
3BASiL, Makni et al. 2026, arXiv 2603.01376; without the low-rank part). Pruned weights stay zero. The error of a
token is taken relative to its size, since what follows normalises it.

T tokens.
Cost: three forward passes of the block over the calibration text an epoch; Adam's two moments of its weights.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gossamer.calibration.observe import BlockRunner, hidden_states
from gossamer.calibration.statistics import Statistic

WARM_UP_STEPS = 5
TIMED_STEPS = 3
"""From these it is told how many fit in the time."""
LAST_RATE = 0.1
"""Of the learning rate, at the end of the cosine."""
HELD_OUT = 8
"""One batch of so many is not trained on, and decides whether the result is kept."""


class Reconstruct(BaseModel):
    """Settings of block reconstruction."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    needs: ClassVar[type[Statistic] | None] = None

    epochs: int = Field(default=4, ge=1, le=1000)
    """How often the calibration text is gone through for each block."""
    learning_rate: float = Field(default=5e-4, gt=0.0, le=1.0)
    """Adam's, after a short warm-up; falls along a cosine."""


@dataclass(frozen=True, slots=True)
class Reconstructed:
    """Mean error of a block's output relative to its size, on text held out; the same twice if training was undone."""

    before: float
    after: float


def reconstruct(
    runner: BlockRunner,
    name: str,
    wanted: list[Any],
    masks: Mapping[str, Tensor | None],
    settings: Reconstruct,
    seconds: float = math.inf,
) -> Reconstructed:
    """Train block `name` of the runner's model in place; it is left as it was if that did not help.

    Args:
        wanted: what the dense block returned for each batch. masks: name of each linear to train -> its mask,
        in the shape of the module's weight. seconds: training is cut to what fits in them.
    """
    started = time.monotonic()
    block = runner.model.get_submodule(name)
    weights = [block_weight(runner.model.get_submodule(linear)) for linear in masks]
    trained = [*weights, *(parameter for parameter in block.parameters() if parameter.ndim == 1)]
    untrained = [parameter.data for parameter in trained]
    numbers = range(len(runner.batches))
    held_out = [number for number in numbers if number % HELD_OUT == HELD_OUT - 1] or [len(numbers) - 1]
    learnt = [number for number in numbers if number not in held_out] or held_out
    before = _error(runner, name, wanted, held_out)
    for parameter in trained:
        parameter.data = parameter.data.clone()  # others may share the values
        parameter.requires_grad_(True)
    try:
        kept = list(zip(weights, masks.values(), strict=True))
        # judging the result takes as long as judging what was there
        seconds -= 2 * (time.monotonic() - started)
        _train(runner, name, wanted, learnt, kept, trained, settings, seconds)
    finally:
        for parameter in trained:
            parameter.requires_grad_(False)
            parameter.grad = None
    after = _error(runner, name, wanted, held_out)
    if not after < before:
        for parameter, value in zip(trained, untrained, strict=True):
            parameter.data = value
        after = before
    return Reconstructed(before, after)


def _train(
    runner: BlockRunner,
    name: str,
    wanted: list[Any],
    learnt: list[int],
    kept: list[tuple[nn.Parameter, Tensor | None]],
    trained: list[nn.Parameter],
    settings: Reconstruct,
    seconds: float,
) -> None:
    """Take steps along a cosine; their number is cut to the seconds once it is known what one takes."""
    optimizer = torch.optim.Adam(trained, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(0)
    num_steps = settings.epochs * len(learnt)
    batches = (
        learnt[position]
        for _ in range(settings.epochs)
        for position in torch.randperm(len(learnt), generator=generator).tolist()
    )
    started = time.monotonic()
    for step, number in enumerate(batches):
        if step == TIMED_STEPS:
            num_steps = int(min(num_steps, seconds * step / (time.monotonic() - started)))
        if step >= num_steps:
            return
        cosine = 0.5 * (1 + math.cos(math.pi * step / num_steps))
        rate = (LAST_RATE + (1 - LAST_RATE) * cosine) * min(1.0, (step + 1) / WARM_UP_STEPS)
        optimizer.param_groups[0]["lr"] = settings.learning_rate * rate
        loss = _loss(runner, name, number, wanted[number])
        optimizer.zero_grad()
        loss.backward()
        for weight, mask in kept:
            if mask is not None and weight.grad is not None:
                weight.grad *= mask
        optimizer.step()


def _error(runner: BlockRunner, name: str, wanted: list[Any], numbers: list[int]) -> float:
    with torch.no_grad():
        return sum(float(_loss(runner, name, number, wanted[number])) for number in numbers) / len(numbers)


def _loss(runner: BlockRunner, name: str, number: int, wanted: Any) -> Tensor:
    """Mean over tokens of |block(x) - wanted|^2 / |wanted|^2."""
    args, kwargs = runner.call_of(name, number)
    args, kwargs = tree_map_only(Tensor, torch.clone, (args, kwargs))  # inference tensors take no gradients
    output = runner.model.get_submodule(name)(*args, **kwargs)
    return token_errors(output, hidden_states(wanted).clone()).mean()


def token_errors(returned: Any, wanted: Any) -> Tensor:
    """|block(x) - wanted|^2 / |wanted|^2 of each token, for what two blocks returned."""
    output, target = hidden_states(returned), hidden_states(wanted)
    size_T = target.square().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return (output - target).square().sum(-1) / size_T


def block_weight(linear: nn.Module) -> nn.Parameter:
    """The weight of a linear as a parameter."""
    weight = linear.weight
    assert isinstance(weight, nn.Parameter)
    return weight
