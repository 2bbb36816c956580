"""The processes that torchrun started to work on one model together: `torchrun -m gossamer ...`.

Nothing else in the package knows of process groups. Sums are taken in another order than in one process, which is the
only difference. What they exchange passes through the CPU, whichever device it is on.
"""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gossamer.errors import UsageError

T = TypeVar("T")


class Processes:
    """All processes of a run, as a context manager; one alone where torchrun did not start it."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1")) if dist.is_torchelastic_launched() else 1
        self.index = int(os.environ["RANK"]) if self.count > 1 else 0

    def __enter__(self) -> "Processes":
        if self.count > 1:
            dist.init_process_group("gloo")
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

    def agreed(self, value: T) -> T:
        """What the first process holds."""
        if self.count > 1:
            box = [value]
            dist.broadcast_object_list(box)
            value = box[0]
        return value

    def gathered(self, value: T) -> list[T]:
        """What each process holds, in their order."""
        if self.count == 1:
            return [value]
        held = [value] * self.count
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
            exchange(own)
            if own is not tensor:
                tensor.copy_(own)
        return tensor

    def mean(self, values: Tensor) -> float:
        """Mean of the values of all processes."""
        if self.count == 1:
            return float(values.mean())
        sums = [float(values.double().sum()), float(values.numel())]
        total, number = self.total(torch.tensor(sums, dtype=torch.float64, device="cpu")).tolist()
        return float(total / number)
