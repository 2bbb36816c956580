"""Adding up the gradients of several processes: only those of what is trained are sent.

A removed weight has no gradient anywhere, so that the vectors of the kept ones are all there is to add up: the sum is
that of whole matrices at the kept places, and the bytes are the density's share of theirs. They are sent in a few flat
buckets; in bfloat16, where that is asked for, they are rounded, added up and widened as torch's `bf16_compress_hook`
does, but for its division, since the parts of a loss are weighted already.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gossamer.distributed.processes import Processes
from gossamer.training.student import Student

AllReduce = Literal["exact", "bf16"]
ALL_REDUCES: dict[AllReduce, torch.dtype] = {"exact": torch.float32, "bf16": torch.bfloat16}
BUCKET_NUMBERS = 6_553_600
"""In a bucket, if one matrix alone has not more: 25 MiB in float32, as in torch's DistributedDataParallel."""


class Exchange:
    """The gradients of a student's masters, added up over all processes."""

    def __init__(self, processes: Processes, student: Student, all_reduce: AllReduce = "exact") -> None:
        self.processes, self.all_reduce = processes, all_reduce
        self._masters = list(student.masters().values())
        self._removed = student.num_removed_of_trained()
        self._dtype = ALL_REDUCES[all_reduce]
        self._bytes = self._rounds = 0

    @torch.no_grad()
    def add_up(self) -> None:
        """Give each master the sum of its gradients; one that has none in any process keeps none."""
        if self.processes.count == 1:
            return
        has = torch.tensor([each.grad is not None for each in self._masters], dtype=torch.uint8, device="cpu")
        self.processes.largest(has)
        self._bytes += has.nbytes
        self._rounds += 1
        moved = [each for each, any_has in zip(self._masters, has.tolist(), strict=True) if any_has]
        for bucket in buckets(moved, BUCKET_NUMBERS):
            self._add_up(bucket)

    def _add_up(self, bucket: Sequence[nn.Parameter]) -> None:
        flat = torch.cat([_gradient(each).flatten() for each in bucket]).to(self._dtype)
        self.processes.total(flat)
        self._bytes += flat.nbytes
        parts = flat.float().split([each.numel() for each in bucket])
        for master, part in zip(bucket, parts, strict=True):
            master.grad = part.view_as(master)

    def record(self) -> dict[str, Any] | None:
        """Return what each process sent in a step, and what whole matrices would take; JSON. None for one process."""
        if self.processes.count == 1 or not self._rounds:
            return None
        sent = self._bytes / self._rounds
        dense = sent + self._removed * self._dtype.itemsize
        return {
            "type": self.all_reduce,
            "bytes_per_step": round(sent),
            "dense_bytes_per_step": round(dense),
            "share_of_dense": sent / dense,
        }


def buckets(masters: Sequence[nn.Parameter], size: int) -> Iterator[list[nn.Parameter]]:
    """Give the masters in groups of at most `size` numbers; a larger one is a group of its own."""
    group: list[nn.Parameter] = []
    for master in masters:
        if group and sum(each.numel() for each in group) + master.numel() > size:
            yield group
            group = []
        group.append(master)
    if group:
        yield group


def _gradient(master: nn.Parameter) -> Tensor:
    return torch.zeros_like(master) if master.grad is None else master.grad
