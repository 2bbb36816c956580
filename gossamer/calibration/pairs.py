"""Observe a block of the compressed model beside the same block of the dense one, token by token.

What the blocks before have lost shows in the inputs of this one. With both models' inputs of a linear, and the
residual stream that its output is added to, the linear can be fitted to give back what is missing
(methods/solve/align.py) instead of only to repeat itself.

T tokens, I input features, O output features.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gossamer.calibration.observe import BlockOutput, BlockRunner, Within, as_it_is, forward_replaced
from gossamer.calibration.statistics import Moments
from gossamer.errors import CalibrationError

SEEN_BYTES = 512 << 20
"""What the dense model shows of one block is kept up to this size; beyond it, its block is run again for each stage."""
ADDITIONS = ("add", "__add__", "__radd__", "add_", "__iadd__")


@dataclass
class Seen:
    """What one forward pass of a block showed of some linears."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    """The last input of each linear that ran."""
    widths: dict[str, int] = field(default_factory=dict)
    """Features of its output."""
    residuals: dict[str, Tensor] = field(default_factory=dict)
    """What the output of a linear was added to, where it was added to something of its shape."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """What that gave."""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    returned: BlockOutput | None = None
    """What the block returned, if it ran to its end."""
    num_tokens: int = 0
    """Tokens that the block was given."""


class _Additions(TorchFunctionMode):
    """Notices when the very tensor that a linear gave is added to another one; raises `_Enough` if it is `until`."""

    def __init__(self, seen: Seen, until: str | None = None) -> None:
        super().__init__()
        self.seen, self.until = seen, until
        self.since: list[Tensor] = []
        """What was computed since the last linear ran: an activation function adds its input to some of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ADDITIONS and len(args) == 2:
            for own, other in (args, args[::-1]):
                for name, output in self.seen.outputs.items():
                    if own is output and self._from_before(other) and other.shape == output.shape:
                        self.seen.residuals[name], self.seen.sums[name] = other, result
                        if name == self.until:
                            raise _Enough
        if isinstance(result, Tensor):
            self.since.append(result)
        return result

    def _from_before(self, other: object) -> bool:
        return isinstance(other, Tensor) and not any(other is each for each in self.since)


class _Enough(Exception):  # noqa: N818 - control flow: the rest of the block is not needed
    pass


@contextmanager
def watched(
    linears: Mapping[str, nn.Module], until: Collection[str] | None = None, added: bool = True
) -> Iterator[Seen]:
    """While open, note the inputs of the given linears and what their outputs are added to.

    Once all of `until` have run, the next other linear raises `_Enough`; with `added` False, when it is known that
    nothing is added to their outputs, the last of them does.
    """
    seen = Seen()

    def stop(name: str, *_: object) -> None:
        if (
            until is not None
            and (name not in until or not added)
            and all(each in seen.inputs for each in until)
        ):
            raise _Enough

    additions = _Additions(seen)

    def note(name: str, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if until is None or name in until:
            seen.inputs[name] = args[0]
            seen.outputs[name] = output
            seen.widths[name] = output.shape[-1]
        additions.since.clear()
        if not added:
            stop(name)

    with ExitStack() as stack:
        for name, module in linears.items():
            stack.callback(module.register_forward_pre_hook(partial(stop, name)).remove)
            stack.callback(module.register_forward_hook(partial(note, name)).remove)
        stack.enter_context(additions)
        yield seen


def stages(runner: BlockRunner, block: str, linears: Collection[str]) -> list[list[str]]:
    """Return the linears in the order in which they run, those that share an input together.

    Names that differ in a number only (experts) are one stage, so that a block has few of them; linears that did
    not run on the first batch come last.
    """
    seen = _forward(runner, block, linears, None, 0)
    found: dict[str, list[str]] = {}
    kind, last_input = "", None
    for name, x in seen.inputs.items():
        own = ".".join(part for part in name.removeprefix(block).split(".") if not part.isdigit())
        if own in found or x is not last_input:
            kind = own
        last_input = x
        found.setdefault(kind, []).append(name)
    unseen = [name for name in linears if name not in seen.inputs]
    return [*found.values(), *([unseen] if unseen else [])]


def parts(runner: BlockRunner, block: str, linears: Collection[str]) -> list[tuple[list[str], str | None]]:
    """Return the linears in the order in which they run, cut after each whose output joins the residual stream.

    That linear stands beside each part, None beside the last one, which goes on to the end of the block and has the
    linears that did not run.
    """
    seen = _forward(runner, block, linears, None, 0)
    found: list[tuple[list[str], str | None]] = [([], None)]
    for name in (*seen.inputs, *(name for name in linears if name not in seen.inputs)):
        if found[-1][1] is not None:
            found.append(([], None))
        found[-1][0].append(name)
        if name in seen.residuals:
            found[-1] = (found[-1][0], name)
    found[-1] = (found[-1][0], None)
    return found


def residual_after(runner: BlockRunner, block: str, linear: str, number: int) -> Tensor:
    """Return the residual stream of a batch as soon as the output of this linear was added to it.

    With gradients where these are enabled; the rest of the block does not run.
    """
    seen = Seen()
    additions = _Additions(seen, linear)

    def note(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        seen.outputs[linear] = output
        additions.since.clear()

    args, kwargs = runner.own_call_of(block, number)
    handle = runner.model.get_submodule(linear).register_forward_hook(note)
    try:
        with additions, suppress(_Enough):
            runner.model.get_submodule(block)(*args, **kwargs)
    finally:
        handle.remove()
    return seen.sums[linear]


def run_dense(
    runner: BlockRunner, block: str, linears: Collection[str]
) -> tuple[list[BlockOutput], list[Seen] | None]:
    """Return what the dense block returns for every batch, and what it showed; None if that is too much to keep."""
    returned: list[BlockOutput] = []
    kept: list[Seen] | None = []
    num_bytes = 0
    for number in range(len(runner.batches)):
        seen = _forward(runner, block, linears, None, number)
        assert seen.returned is not None
        returned.append(seen.returned)
        seen.residuals.clear()
        tensors = {id(tensor): tensor for tensor in (*seen.inputs.values(), *seen.sums.values())}
        num_bytes += sum(tensor.nbytes for tensor in tensors.values())
        if num_bytes > SEEN_BYTES:
            kept = None
        if kept is not None:
            kept.append(seen)
    return returned, kept


def observe_pairs(
    compressed: BlockRunner,
    dense: BlockRunner,
    block: str,
    linears: Collection[str],
    stage: Collection[str],
    dense_seen: list[Seen] | None = None,
    within: Within = as_it_is,
) -> dict[str, Moments]:
    """Run a block of both models on every batch; return the moments of each linear of `stage` that was reached.

    `dense_seen` is what `run_dense` kept, which saves running the dense block again; the compressed one is run
    `within(number)`. `linears` are all that the block has; none after the stage is run. Linears that share an input
    share one object. A linear that sees a selection of the tokens (an expert) is not compared: the two models may have
    selected others.

    Raises:
        CalibrationError: an input holds NaN or infinity; the message names the linear.
    """
    moments: dict[str, Moments] = {}
    for number in range(len(compressed.batches)):
        there = dense_seen[number] if dense_seen else _forward(dense, block, linears, stage, number)
        added = any(name in there.sums for name in stage)
        with within(number), _blank(compressed.model, stage, there):
            here = _forward(compressed, block, linears, stage, number, added)
        updated: list[Moments] = []
        for name, x in here.inputs.items():
            if name not in moments:
                twin = next((other for other in moments if here.inputs.get(other) is x), None)
                moments[name] = Moments(x.shape[-1], x.device) if twin is None else moments[twin]
            if not any(moments[name] is other for other in updated):
                updated.append(moments[name])
                try:
                    _update(moments[name], name, here, there, dense.model.get_submodule(name))
                except CalibrationError as error:
                    raise CalibrationError(f"{name}: {error}") from error
    return moments


def _forward(
    runner: BlockRunner,
    block: str,
    linears: Collection[str],
    stage: Collection[str] | None,
    number: int,
    added: bool = True,
) -> Seen:
    args, kwargs = runner.call_of(block, number)
    modules = {name: runner.model.get_submodule(name) for name in linears}
    with watched(modules, stage, added) as seen, torch.inference_mode(), suppress(_Enough):
        seen.returned = runner.model.get_submodule(block)(*args, **kwargs)
    seen.outputs.clear()
    hidden = args[0] if args else kwargs["hidden_states"]
    seen.num_tokens = hidden.shape[:-1].numel()
    return seen


@contextmanager
def _blank(model: nn.Module, stage: Collection[str], dense: Seen) -> Iterator[None]:
    """While open, linears of one input give zeros: nobody asks what they make of it before they are compressed."""
    inputs = [dense.inputs.get(name) for name in stage]
    with ExitStack() as stack:
        if inputs[0] is not None and all(each is inputs[0] for each in inputs):
            for name in stage:
                zeros = partial(_zeros, dense.widths[name])
                stack.enter_context(forward_replaced(model.get_submodule(name), zeros))
        yield


def _zeros(width: int, x: Tensor) -> Tensor:
    return x.new_zeros(*x.shape[:-1], width)


def _update(moments: Moments, name: str, here: Seen, there: Seen, linear: nn.Module) -> None:
    """Take in one batch; `linear` is the dense one, whose bias the compressed one has too."""
    x, dense = here.inputs[name], there.inputs.get(name)
    if dense is None or dense.shape != x.shape or x.shape[:-1].numel() != here.num_tokens:
        moments.update_pair(x, x)
        return
    alone = sum(each is x for each in here.inputs.values()) == 1
    if not alone or name not in here.residuals or name not in there.sums:
        moments.update_pair(x, dense)
        return
    wanted = there.sums[name] - here.residuals[name]
    bias = getattr(linear, "bias", None)
    moments.update_wanted(x, wanted if bias is None else wanted - bias)
