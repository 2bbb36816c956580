"""Run a model one block at a time, and observe what flows into its linears.

Block i is reached by running the model's own forward code with the blocks before it replaced by what they returned
last time. So masks, position embeddings, cross-attention and everything else that a model hands to its blocks is
what the model really hands to them, whatever its family, and no block but one needs its weights in memory.

T tokens, I input features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gossamer.calibration.statistics import Statistic
from gossamer.errors import CalibrationError

Batch = Mapping[str, Tensor]
"""Keyword arguments of one forward call of the model."""
BlockOutput = Tensor | Sequence[object]
"""What a block returns: its hidden states, alone or before what else it gives."""
Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of one call of a block, as the model gives them."""


Within = Callable[[int], AbstractContextManager[object]]
"""Given the number of a batch: what is open while a block runs on it."""


def as_it_is(_number: int) -> AbstractContextManager[None]:
    """A block runs with nothing around it."""
    return nullcontext()


class _Reached(Exception):  # noqa: N818 - control flow: the model stops here on purpose
    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.call = (args, kwargs)


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """While open, the module runs `forward` instead of its own."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # the class's own forward shows through again


class BlockRunner:
    """Steps through the blocks of a model in order, on a fixed list of batches.

    Holds what the last finished block of each stack returned for every batch: tokens x hidden size x 4 bytes.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.model, self.batches = model, batches
        self._finished: dict[str, list[BlockOutput]] = {}

    def run(self, name: str, within: Within = as_it_is) -> list[BlockOutput]:
        """Run block `name` on every batch, each `within(number)`, and give what it returned."""
        block = self.model.get_submodule(name)
        returned = []
        for number in range(len(self.batches)):
            args, kwargs = self.call_of(name, number)
            with within(number), torch.inference_mode():
                returned.append(block(*args, **kwargs))
        return returned

    def returned(self, name: str) -> list[BlockOutput]:
        """What the finished block `name`, the last of its stack, returned for every batch."""
        return self._finished[name]

    def finish(self, name: str, returned: list[BlockOutput], stack: Sequence[str]) -> None:
        """From now on block `name`, and with it the blocks before it in its stack, give `returned`."""
        returned = tree_map_only(Tensor, torch.Tensor.contiguous, returned)
        for earlier in stack[: stack.index(name) + 1]:
            self._finished[earlier] = returned

    def forget(self) -> None:
        """From now on every block runs again."""
        self._finished.clear()

    def outputs(self) -> Iterator[Any]:
        """What the model gives for each batch once all blocks are finished; only the parts around them run."""
        for number, batch in enumerate(self.batches):
            with self.replaying(number), torch.inference_mode():
                yield self.model(**batch)

    def call_of(self, name: str, number: int) -> Call:
        """The arguments with which the model calls block `name` on batch `number`."""
        block = self.model.get_submodule(name)

        def stop(*args: object, **kwargs: object) -> NoReturn:
            raise _Reached(args, kwargs)

        with self.replaying(number), forward_replaced(block, stop), torch.inference_mode():
            try:
                self.model(**self.batches[number])
            except _Reached as reached:
                return reached.call
        raise CalibrationError(f"the model never ran {name}: its blocks are not run in order.")

    def own_call_of(self, name: str, number: int) -> Call:
        """The same with tensors of their own, which may take gradients; inference tensors do not."""
        call: Call = tree_map_only(Tensor, torch.clone, self.call_of(name, number))
        return call

    @contextmanager
    def replaying(self, number: int) -> Iterator[None]:
        """While open, finished blocks return what they returned last for batch `number`."""
        with ExitStack() as stack:
            for name, returned in self._finished.items():
                module = self.model.get_submodule(name)
                stack.enter_context(forward_replaced(module, partial(_constant, returned[number])))
            yield


def hidden_states(returned: BlockOutput) -> Tensor:
    """The hidden states among what a block returns."""
    value = returned if isinstance(returned, Tensor) else returned[0]
    assert isinstance(value, Tensor)
    return value


def main_output(outputs: Any) -> Tensor:
    """The main output of a model: logits, or the last hidden state of a bare encoder."""
    value = outputs.logits if hasattr(outputs, "logits") else outputs[0]
    assert isinstance(value, Tensor)
    return value


def _constant(value: BlockOutput, *_args: object, **_kwargs: object) -> BlockOutput:
    return value


@contextmanager
def observed(linears: Mapping[str, tuple[nn.Module, type]]) -> Iterator[dict[str, Statistic]]:
    """While open, every forward of the given linears updates its statistic; the hooks are gone afterwards.

    Args:
        linears: name -> (module, class of the statistic).

    Linears that are fed the very same tensor (query, key and value) share one statistic, computed once.

    Raises:
        CalibrationError: an input holds NaN or infinity; the message names the linear.
    """
    observer = _Observer()
    handles = [
        module.register_forward_pre_hook(observer.hook(name, statistic_class))
        for name, (module, statistic_class) in linears.items()
    ]
    try:
        yield observer.statistics
    finally:
        for handle in handles:
            handle.remove()


class _Observer:
    def __init__(self) -> None:
        self.statistics: dict[str, Statistic] = {}
        self._followers: set[str] = set()  # linears whose input another linear has observed already
        self._last_input: Tensor | None = None
        self._last_statistic: Statistic | None = None

    def hook(self, name: str, statistic_class: type) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def observe(_module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0]
            same_input = x is self._last_input and type(self._last_statistic) is statistic_class
            if name not in self.statistics and same_input and self._last_statistic is not None:
                self._followers.add(name)
                self.statistics[name] = self._last_statistic
            if name in self._followers:
                assert same_input, f"{name} shares its input in one batch and not in another"
                return
            if name not in self.statistics:
                self.statistics[name] = statistic_class(x.shape[-1], x.device)
            try:
                self.statistics[name].update(x.detach().reshape(-1, x.shape[-1]).float())
            except CalibrationError as error:
                raise CalibrationError(f"{name}: {error}") from error
            self._last_input, self._last_statistic = x, self.statistics[name]

        return observe
