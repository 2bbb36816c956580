"""What changes of single weights cost the model: the diagonal of its Fisher information.

With g the gradient of -log p(label) by the outputs of a linear for one token, x its inputs, and labels drawn from what
the model itself predicts, E[(g_o x_i)^2] is the curvature of the KL divergence between its predictions and those with
weight (o, i) changed (Martens 2014, arXiv 1412.1193, section 5), and E[g_o^2] the one for a change of output o. A model
without logits stands for a Gaussian of unit variance around its outputs, whose gradient is noise.

The blocks run forwards, and then a second time with gradients, from the last to the first, one at a time in memory.

T tokens, O output features, I input features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gossamer.calibration.observe import BlockOutput, BlockRunner, hidden_states, main_output
from gossamer.errors import CalibrationError

PROBE_TOKENS = 4096
"""Tokens whose gradients are taken, at most, and a quarter of the calibration text."""
PROBE_BYTES = 1 << 30
"""What all blocks return for them is kept from one pass to the other; fewer tokens are taken where that is too much."""


def probe_tokens(num_tokens: int, num_blocks: int, hidden_size: int) -> int:
    """Return how many tokens of the calibration text are looked at."""
    return min(PROBE_TOKENS, num_tokens // 4, PROBE_BYTES // (4 * num_blocks * hidden_size))


@dataclass
class Curvature:
    """Sums over tokens for one linear."""

    weight_OI: Tensor
    """Of (g_o x_i)^2."""
    output_O: Tensor
    """Of g_o^2."""


def curvatures(
    runner: BlockRunner,
    stack: Sequence[str],
    returned: dict[str, list[BlockOutput]],
    linears: Callable[[str], Mapping[str, nn.Module]],
    seeds: Sequence[int],
) -> Iterator[tuple[str, dict[str, Curvature]]]:
    """Yield each block of a model, the last one first, with what its linears showed.

    Args:
        returned: what each block returned for every batch; entries are taken out as they are used up.
        linears: puts a block into the model, and returns those of its linears that are asked for.
        seeds: of the labels that are drawn, for every batch.

    Linears that no token reached have no entry.
    """
    runner.forget()
    runner.finish(stack[-1], [_leaf(each) for each in returned.pop(stack[-1])], stack)
    gradients = [_by_last_block(runner, stack[-1], number, seed) for number, seed in enumerate(seeds)]
    for index in range(len(stack) - 1, -1, -1):
        runner.forget()
        if index:
            runner.finish(stack[index - 1], returned.pop(stack[index - 1]), stack)
        modules = linears(stack[index])
        found: dict[str, Curvature] = {}
        for number in range(len(runner.batches)):
            gradients[number] = _through_block(
                runner, stack[index], number, gradients[number], modules, found
            )
        yield stack[index], found
    runner.forget()


def _leaf(returned: BlockOutput) -> BlockOutput:
    """The same values as a block gave, its hidden states ready to receive a gradient."""
    own: BlockOutput = tree_map_only(Tensor, torch.clone, returned)  # inference tensors take no gradients
    hidden_states(own).requires_grad_()
    return own


def _by_last_block(runner: BlockRunner, last: str, number: int, seed: int) -> Tensor:
    """Return the gradient by what the last block gave for one batch."""
    leaf = hidden_states(runner.returned(last)[number])
    generator = torch.Generator().manual_seed(seed)
    with runner.replaying(number), torch.enable_grad():
        outputs = runner.model(**runner.batches[number])
        output = main_output(outputs).float()
        if hasattr(outputs, "logits"):
            slope = _by_drawn_labels(output.detach(), generator)
        else:
            slope = torch.randn(output.shape, generator=generator, device=generator.device)
        return torch.autograd.grad(output, leaf, slope.to(output.device))[0]


def _by_drawn_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return the gradient of -log p(label) by the logits, p - onehot(label), for labels drawn by p."""
    chance_TV = logits.flatten(0, -2).softmax(-1)
    if not bool(torch.isfinite(chance_TV.sum())):
        raise CalibrationError(
            "the dense model predicts NaN or infinite values for the calibration text. Check its weights."
        )
    label_T1 = torch.multinomial(chance_TV.to(generator.device), 1, generator=generator).to(logits.device)
    one_T1 = torch.ones_like(label_T1, dtype=chance_TV.dtype)
    return chance_TV.scatter_add_(1, label_T1, -one_T1).view(logits.shape)


def _through_block(
    runner: BlockRunner,
    block: str,
    number: int,
    gradient: Tensor,
    modules: Mapping[str, nn.Module],
    found: dict[str, Curvature],
) -> Tensor:
    """Take in what the gradients of one batch show of the linears; return the one by the block's input."""

    def take(name: str, x_TI: Tensor, gradient: Tensor) -> None:
        square_TO = gradient.flatten(0, -2).square()
        weight_OI, output_O = square_TO.T @ x_TI.square(), square_TO.sum(0)
        if name in found:
            found[name].weight_OI += weight_OI
            found[name].output_O += output_O
        else:
            found[name] = Curvature(weight_OI, output_O)

    def watch(name: str, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(partial(take, name, args[0].detach().flatten(0, -2)))

    args, kwargs = runner.own_call_of(block, number)
    hidden = args[0] if args else kwargs["hidden_states"]
    hidden.requires_grad_()
    with ExitStack() as stack, torch.enable_grad():
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(partial(watch, name)).remove)
        output = hidden_states(runner.model.get_submodule(block)(*args, **kwargs))
        return torch.autograd.grad(output, hidden, gradient)[0]
