"""Statistics of several processes, each of which has seen its part of the text, become those of all of it."""

from collections.abc import Mapping

import torch

from gossamer.calibration.statistics import Statistic
from gossamer.distributed.processes import Processes


def merged(
    processes: Processes, statistics: Mapping[str, Statistic], device: torch.device
) -> Mapping[str, Statistic]:
    """Return the statistics over the tokens of all processes; linears that share one still do.

    An expert may have been reached in some processes only, so that they first agree on what there is. `device`
    is where this process observes.
    """
    if processes.count == 1:
        return statistics
    leaders: dict[str, tuple[str, type[Statistic], int]] = {}
    for told in processes.gathered(_described(statistics)):
        for name, (leader, kind, num_inputs) in told.items():
            first = leaders[leader][0] if leader in leaders else leader
            leaders.setdefault(name, (first, kind, num_inputs))
    found: dict[str, Statistic] = {}
    for name, (leader, kind, num_inputs) in leaders.items():
        if leader not in found:
            own = [other for other, told in leaders.items() if told[0] == leader and other in statistics]
            found[leader] = statistics[own[0]] if own else kind(num_inputs, device)
            found[leader].merge_across(processes)
        found[name] = found[leader]
    return found


def _described(statistics: Mapping[str, Statistic]) -> dict[str, tuple[str, type[Statistic], int]]:
    """Name -> the first linear that has the same statistic, and what it takes to make an empty one."""
    first: dict[int, str] = {}
    return {
        name: (first.setdefault(id(each), name), type(each), each.num_inputs)
        for name, each in statistics.items()
    }
