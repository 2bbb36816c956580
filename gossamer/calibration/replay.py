"""A block that is compressed linear by linear runs once, not once for each: what is finished in it is not run again.

A part of the block (a linear, or a module around linears) is finished when all its linears, and all that run before
them, have got their last weights. What it returns for a batch is then the same in every later pass. It is kept the
first time, and given back after that; what lies inside it does not run.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from gossamer.calibration.observe import forward_replaced

KEPT_BYTES = 512 << 20
"""What finished parts of one block return is kept up to this size; parts beyond it run again in every pass."""


class Replay:
    """What the finished parts of one block returned for each batch.

    A part that runs twice in one pass is never finished: a later call may see what is not.
    """

    def __init__(self, model: nn.Module, block: str, order: Sequence[str]) -> None:
        """`order`: the linears of the block, as `stages` gives them."""
        self.model, self.block, self.order = model, block, order
        self._linears = {
            part: [name for name in order if name == part or name.startswith(f"{part}.")]
            for part in (f"{block}.{name}" for name, _ in model.get_submodule(block).named_modules() if name)
        }
        self._open = set(order)
        self._kept: dict[str, dict[int, Any]] = {}
        self._twice: set[str] = set()
        self._num_bytes = 0

    def finish(self, linears: Collection[str]) -> None:
        """These linears have got their last weights."""
        self._open -= set(linears)

    @contextmanager
    def running(self, number: int, keep: bool = True) -> Iterator[None]:
        """While open, the block runs on batch `number` with what is known; `keep` more of it for later passes."""
        finished = self._finished()
        with ExitStack() as stack:
            for part, linears in self._linears.items():  # a module stands before what is inside it
                if not linears or not finished.issuperset(linears) or part in self._twice:
                    continue
                module = self.model.get_submodule(part)
                if number in self._kept.get(part, ()):
                    stack.enter_context(forward_replaced(module, partial(self._given, part, number)))
                elif keep:
                    hook = partial(self._keep, part, number, [])
                    stack.callback(module.register_forward_hook(hook).remove)
            yield

    def _finished(self) -> set[str]:
        """The linears before the first one that may still change."""
        first = next((at for at, name in enumerate(self.order) if name in self._open), len(self.order))
        return set(self.order[:first])

    def _given(self, part: str, number: int, *_args: object, **_kwargs: object) -> Any:
        return _copy(self._kept[part][number])

    def _keep(
        self, part: str, number: int, calls: list[int], _module: object, _args: object, output: Any
    ) -> None:
        calls.append(number)
        if len(calls) > 1:
            self._twice.add(part)
            self._forget(part, list(self._kept.get(part, ())))
            return
        size = _num_bytes(output)
        if self._num_bytes + size > KEPT_BYTES:
            return
        self._kept.setdefault(part, {})[number] = _copy(output)
        self._num_bytes += size
        for inner in self._linears:
            if inner.startswith(f"{part}."):
                self._forget(inner, [number])

    def _forget(self, part: str, numbers: Collection[int]) -> None:
        kept = self._kept.get(part, {})
        for number in numbers:
            if number in kept:
                self._num_bytes -= _num_bytes(kept.pop(number))


def _copy(output: Any) -> Any:
    """The same in memory of its own: a model may add to what a part of it returned."""
    return tree_map_only(Tensor, Tensor.clone, output)


def _num_bytes(output: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
