"""What an error in the outputs of a linear costs the model: the Fisher information of each output.

With g the gradient of -log p(label) by the outputs y of a linear, labels drawn from what the model itself predicts,
E[g g^T] is the curvature of the KL divergence between its predictions and those after y was disturbed (Martens 2014,
arXiv 1412.1193, section 5). Its diagonal is kept here: mean_t g_to^2. A model without logits stands for a Gaussian of
unit variance around its outputs, whose gradient is noise.

The blocks run forwards, and then a second time with gradients, from the last to the first, one at a time in memory.

T tokens, O output features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gossamer.calibration.observe import BlockRunner, hidden_states, main_output
from gossamer.calibration.statistics import InputNorm


def output_gradients(
    runner: BlockRunner,
    stack: Sequence[str],
    returned: Mapping[str, list[Any]],
    linears: Callable[[str], Mapping[str, nn.Module]],
    seed: int = 0,
) -> Iterator[tuple[str, dict[str, InputNorm]]]:
    """Yield each block of a model, the last one first, with the squared gradients of its linears' outputs.

    Args:
        returned: what each block returned for every batch; entries are taken out as they are used up.
        linears: puts a block into the model, and returns those of its linears that are asked for.
        seed: of the labels that are drawn.

    Linears that no token reached have no entry.
    """
    generator = torch.Generator().manual_seed(seed)
    runner.forget()
    runner.finish(stack[-1], [_leaf(each) for each in returned.pop(stack[-1])], stack)  # type: ignore[attr-defined]
    gradients = [
        _by_last_block(runner, stack[-1], number, generator) for number in range(len(runner.batches))
    ]
    for index in range(len(stack) - 1, -1, -1):
        runner.forget()
        if index:
            runner.finish(stack[index - 1], returned.pop(stack[index - 1]), stack)  # type: ignore[attr-defined]
        modules = linears(stack[index])
        norms: dict[str, InputNorm] = {}
        for number in range(len(runner.batches)):
            gradients[number] = _through_block(
                runner, stack[index], number, gradients[number], modules, norms
            )
        yield stack[index], norms
    runner.forget()


def _leaf(returned: Any) -> Any:
    """The same values as a block gave, its hidden states ready to receive a gradient."""
    returned = tree_map_only(Tensor, torch.clone, returned)  # inference tensors take no gradients
    hidden_states(returned).requires_grad_()
    return returned


def _by_last_block(runner: BlockRunner, last: str, number: int, generator: torch.Generator) -> Tensor:
    """Return the gradient by what the last block gave for one batch."""
    leaf = hidden_states(runner.returned(last)[number])
    with runner.replaying(number), torch.enable_grad():
        outputs = runner.model(**runner.batches[number])
        output = main_output(outputs).float()
        if hasattr(outputs, "logits"):
            logits_TV = output.flatten(0, -2)
            labels_T1 = torch.multinomial(logits_TV.detach().softmax(-1), 1, generator=generator)
            loss = nn.functional.cross_entropy(logits_TV, labels_T1[:, 0], reduction="sum")
        else:
            loss = (output * torch.randn(output.shape, generator=generator)).sum()
        return torch.autograd.grad(loss, leaf)[0]


def _through_block(
    runner: BlockRunner,
    block: str,
    number: int,
    gradient: Tensor,
    modules: Mapping[str, nn.Module],
    norms: dict[str, InputNorm],
) -> Tensor:
    """Take in the gradients of one batch by the outputs of the linears; return the one by the block's input."""

    def note(name: str, gradient: Tensor) -> None:
        norms.setdefault(name, InputNorm(gradient.shape[-1])).update(gradient)

    def watch(name: str, _module: nn.Module, _args: Any, output: Tensor) -> None:
        output.register_hook(partial(note, name))

    args, kwargs = tree_map_only(Tensor, torch.clone, runner.call_of(block, number))
    hidden = args[0] if args else kwargs["hidden_states"]
    hidden.requires_grad_()
    with ExitStack() as stack, torch.enable_grad():
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(partial(watch, name)).remove)
        output = hidden_states(runner.model.get_submodule(block)(*args, **kwargs))
        return torch.autograd.grad(output, hidden, gradient)[0]
