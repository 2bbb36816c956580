"""Several processes that calibrate one model together, each on its share of the text: `torchrun -m gossamer ...`.

Every rank runs every block on its own batches. The statistics are summed over all of them (gloo), so that each rank
then applies the same steps to the same numbers; the first one alone writes. Sums are taken in another order than in one
process, which is the only difference.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gossamer.calibration.statistics import Moments, Statistic
from gossamer.errors import UsageError

T = TypeVar("T")


def is_first() -> bool:
    """True in the process that writes and reports: every process that torchrun did not start, and its first."""
    return os.environ.get("RANK", "0") == "0"


class Ranks:
    """The processes that torchrun started, as a context manager; one alone where it did not."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1")) if dist.is_torchelastic_launched() else 1
        self.rank = int(os.environ["RANK"]) if self.size > 1 else 0

    def __enter__(self) -> "Ranks":
        if self.size > 1:
            dist.init_process_group("gloo")
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1:
            dist.destroy_process_group()

    def share(self, batches: Sequence[T]) -> list[T]:
        """The batches of this rank: every `size`-th."""
        if len(batches) < self.size:
            raise UsageError(
                f"{self.size} processes, but the calibration text makes {len(batches)} batches. Start fewer, or give "
                "more --samples."
            )
        return list(batches[self.rank :: self.size])

    def agreed(self, value: T) -> T:
        """What the first rank holds."""
        if self.size > 1:
            box = [value]
            dist.broadcast_object_list(box)
            value = box[0]
        return value

    def same(self, tensor: Tensor) -> Tensor:
        """Give the tensor the values that it has on the first rank."""
        if self.size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def total(self, tensor: Tensor) -> Tensor:
        """Give the tensor the sum of its values on all ranks."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, values: Tensor) -> float:
        """Mean of the values of all ranks."""
        if self.size == 1:
            return float(values.mean())
        total = torch.stack((values.double().sum(), torch.tensor(float(values.numel()), dtype=torch.float64)))
        dist.all_reduce(total)
        return float(total[0] / total[1])

    def together(self, statistics: Mapping[str, Statistic]) -> Mapping[str, Statistic]:
        """Return the statistics over the tokens of all ranks; linears that share one still do.

        An expert may have been reached on some ranks only, so that the ranks agree first on what there is.
        """
        if self.size == 1:
            return statistics
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, _described(statistics))
        leaders: dict[str, tuple[str, dict[str, Any]]] = {}
        for own in told:
            for name, (leader, shape) in own.items():
                leaders.setdefault(name, (leaders.get(leader, (leader,))[0], shape))
        merged: dict[str, Statistic] = {}
        for name, (leader, shape) in leaders.items():
            if leader not in merged:
                group = [
                    other for other, (its, _) in leaders.items() if its == leader and other in statistics
                ]
                merged[leader] = statistics[group[0]] if group else _empty(shape)
                _sum(merged[leader], shape)
            merged[name] = merged[leader]
        return merged


def _described(statistics: Mapping[str, Statistic]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> the first linear that has the same statistic, and what it takes to make an empty one."""
    first: dict[int, str] = {}
    told = {}
    for name, statistic in statistics.items():
        drift = statistic.drift_OI if isinstance(statistic, Moments) else None
        shape = {
            "class": type(statistic),
            "num_inputs": statistic.num_inputs,
            "num_drifts": None if drift is None else len(drift),
        }
        told[name] = (first.setdefault(id(statistic), name), shape)
    return told


def _empty(shape: Mapping[str, Any]) -> Statistic:
    statistic: Statistic = shape["class"](shape["num_inputs"])
    return statistic


def _sum(statistic: Statistic, shape: Mapping[str, Any]) -> None:
    """Sum the statistic over all ranks, in place; the largest of what is a maximum."""
    if isinstance(statistic, Moments) and statistic.drift_OI is None and shape["num_drifts"] is not None:
        statistic.drift_OI = torch.zeros(shape["num_drifts"], shape["num_inputs"])
    for name, value in sorted(vars(statistic).items()):
        if isinstance(value, Tensor):
            dist.all_reduce(value, dist.ReduceOp.MAX if name.startswith("maximum") else dist.ReduceOp.SUM)
    tokens = torch.tensor(statistic.num_tokens)
    dist.all_reduce(tokens)
    statistic.num_tokens = int(tokens)
