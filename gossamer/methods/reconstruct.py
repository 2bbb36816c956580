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
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from gossamer.calibration.observe import BlockRunner, hidden_states
from gossamer.calibration.pairs import residual_after
from gossamer.methods.solve.settings import MethodSettings

WARM_UP_STEPS = 5
TIMED_STEPS = 3
"""From these it is told how many fit in the time."""
LAST_RATE = 0.1
"""Of the learning rate, at the end of the cosine."""
HELD_OUT = 8
"""One batch of so many is not trained on, and decides whether the result is kept."""


class Reconstruct(MethodSettings):
    """Settings of block reconstruction."""

    epochs: int = Field(default=4, ge=1, le=1000)
    """How often the calibration text is gone through for each block."""
    learning_rate: float = Field(default=5e-4, gt=0.0, le=1.0)
    """Adam's, after a short warm-up; falls along a cosine."""
    apart: bool = False
    """true: attention and MLP one after the other, each as soon as its linears are done, on the residual stream that
    it adds to; false: the block as a whole."""


@dataclass(frozen=True, slots=True)
class Reconstructed:
    """Mean error of a block's output relative to its size, on text held out; the same twice if training was undone."""

    before: float
    after: float


def reconstruct(
    runner: BlockRunner,
    name: str,
    wanted: Sequence[Tensor],
    weights: Mapping[nn.Parameter, Tensor | None],
    settings: Reconstruct,
    *,
    until: str | None = None,
    but: Collection[nn.Parameter] = (),
    seconds: float = math.inf,
) -> Reconstructed:
    """Train block `name` of the runner's model in place; it is left as it was if that did not help.

    Args:
        wanted: the hidden states that the dense block returned for each batch. weights: each weight to train -> its
        mask, of the same shape. until: what is wanted is the residual stream after this linear. but: norms and biases
        that are not trained. seconds: training is cut to what fits in them.
    """
    block = runner.model.get_submodule(name)
    vectors = [each for each in vectors_of(block) if not any(each is other for other in but)]

    def output(number: int) -> Tensor:
        if until is not None:
            return residual_after(runner, name, until, number)
        args, kwargs = runner.own_call_of(name, number)
        return hidden_states(block(*args, **kwargs))

    return _fit(output, wanted, weights, vectors, settings, seconds)


def vectors_of(block: nn.Module) -> list[nn.Parameter]:
    """Norms and biases."""
    return [parameter for parameter in block.parameters() if parameter.ndim == 1]


def _fit(
    output: Callable[[int], Tensor],
    wanted: Sequence[Tensor],
    weights: Mapping[nn.Parameter, Tensor | None],
    vectors: Sequence[nn.Parameter],
    settings: Reconstruct,
    seconds: float,
) -> Reconstructed:
    started = time.monotonic()
    trained = [*weights, *vectors]
    untrained = [parameter.data for parameter in trained]
    numbers = range(len(wanted))
    held_out = [number for number in numbers if number % HELD_OUT == HELD_OUT - 1] or [len(numbers) - 1]
    learnt = [number for number in numbers if number not in held_out] or held_out

    def loss(number: int) -> Tensor:
        return token_errors(output(number), wanted[number].clone()).mean()

    before = _error(loss, held_out)
    for parameter in trained:
        parameter.data = parameter.data.clone()  # others may share the values
        parameter.requires_grad_(True)
    try:
        # judging the result takes as long as judging what was there
        seconds -= 2 * (time.monotonic() - started)
        _train(loss, learnt, weights, trained, settings, seconds)
    finally:
        for parameter in trained:
            parameter.requires_grad_(False)
            parameter.grad = None
    after = _error(loss, held_out)
    if not after < before:
        for parameter, value in zip(trained, untrained, strict=True):
            parameter.data = value
        after = before
    return Reconstructed(before, after)


def _train(
    loss: Callable[[int], Tensor],
    learnt: list[int],
    weights: Mapping[nn.Parameter, Tensor | None],
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
        for position in torch.randperm(len(learnt), generator=generator, device=generator.device).tolist()
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
        error = loss(number)
        optimizer.zero_grad()
        error.backward()
        for weight, mask in weights.items():
            if mask is not None and weight.grad is not None:
                weight.grad *= mask
        optimizer.step()


def _error(loss: Callable[[int], Tensor], numbers: list[int]) -> float:
    with torch.no_grad():
        return sum(float(loss(number)) for number in numbers) / len(numbers)


def token_errors(output: Tensor, wanted: Tensor) -> Tensor:
    """|output - wanted|^2 / |wanted|^2 of each token, for the hidden states of two blocks."""
    size_T = wanted.square().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
    return (output - wanted).square().sum(-1) / size_T
