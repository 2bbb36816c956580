"""The processes that torchrun started to work on one model together: `torchrun -m gossamer ...`.

Nothing else in the package knows of process groups. Sums are taken in another order than in one process, which is the
only difference. What they exchange passes through the CPU, whichever device it is on.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as tree

from gossamer.errors import ProcessError, UsageError

T = TypeVar("T")
PATIENCE = timedelta(days=30)
"""One that has ended is noticed at once; one that works alone for long (writes, reads, is suspended) is waited for."""


class Processes:
    """All processes of a run, as a context manager; one alone where torchrun did not start it."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1")) if dist.is_torchelastic_launched() else 1
        self.index = int(os.environ["RANK"]) if self.count > 1 else 0

    def __enter__(self) -> "Processes":
        if self.count > 1:
            dist.init_process_group("gloo", timeout=PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        if self.count > 1:
            dist.destroy_process_group()

    def part(self, batches: Sequence[T]) -> list[T]:
        """The batches of this process: every `count`-th. UsageError if there are fewer batches than processes."""
        if len(batches) < self.count:
            raise UsageError(
                f"{self.count} processes, but the calibration text makes {len(batches)} batches. Start fewer, or give "
                "more --samples."
            )
        return list(batches[self.index :: self.count])

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items of this process: consecutive ones, none where there are fewer items than processes."""
        first, behind = (-(-len(items) * place // self.count) for place in (self.index, self.index + 1))
        return items[first:behind]

    def agreed(self, value: T) -> T:
        """What the first process holds."""
        if self.count > 1:
            box = [value]
            with _explained():
                dist.broadcast_object_list(box)
            value = box[0]
        return value

    def handed_out(self, values: T) -> T:
        """What the first process holds, any nesting of tensors and plain values, for each in memory of its own."""
        if self.count == 1:
            return values
        leaves, structure = tree.tree_flatten(values)
        told = [_Shape(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        told, form = self.agreed((told, tree.treespec_dumps(structure)))
        if self.index > 0:
            leaves = [leaf.empty() if isinstance(leaf, _Shape) else leaf for leaf in told]
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                self.same(leaf)
        received: T = tree.tree_unflatten(leaves, tree.treespec_loads(form))
        return received

    def gathered(self, value: T) -> list[T]:
        """What each process holds, in their order."""
        if self.count == 1:
            return [value]
        held = [value] * self.count
        with _explained():
            dist.all_gather_object(held, value)
        return held

    def same(self, tensor: Tensor) -> Tensor:
        """Give the tensor the values that it has in the first process."""
        return self._exchanged(tensor, lambda own: dist.broadcast(own, 0))

    def total(self, tensor: Tensor) -> Tensor:
        """Give the tensor the sum of its values in all processes."""
        return self._exchanged(tensor, dist.all_reduce)

    def largest(self, tensor: Tensor) -> Tensor:
        """Give the tensor the largest of its values in all processes."""
        return self._exchanged(tensor, lambda own: dist.all_reduce(own, dist.ReduceOp.MAX))

    def _exchanged(self, tensor: Tensor, exchange: Callable[[Tensor], object]) -> Tensor:
        if self.count > 1:
            own = tensor.cpu()  # the tensor itself where it is there
            with _explained():
                exchange(own)
            if own is not tensor:
                tensor.copy_(own)
        return tensor

    def mean(self, values: Tensor) -> float:
        """Mean of the values of all processes."""
        if self.count == 1:
            return float(values.mean())
        total, number = self.sums(float(values.double().sum()), float(values.numel()))
        return total / number

    def sums(self, *values: float) -> list[float]:
        """The sum of each number over all processes."""
        totals: list[float] = self.total(torch.tensor(values, dtype=torch.float64, device="cpu")).tolist()
        return totals


class _Shape:
    """What is told of a tensor before its values are sent."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype = tuple(tensor.shape), tensor.dtype

    def empty(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device="cpu")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what gloo says when the other side is gone into a ProcessError."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            "another process of this run has ended, and this one cannot go on without it. What it said itself, or "
            f"torchrun's report, tells why ({str(error).splitlines()[0]:.200})."
        ) from error
