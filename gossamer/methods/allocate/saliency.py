"""What removing or rounding weights costs the model, and one sparsity or number of bits that layers share by it.

Removing a weight costs f w^2 / 2, f its Fisher information (calibration/gradients.py), as in Optimal Brain Damage
(LeCun et al. 1989) and Fisher pruning (Theis et al. 2018, arXiv 1801.05787). That compares weights of different layers:
all below one threshold are counted, and the share of a layer is its sparsity. Which of its weights go, and how the
others make up for it, is left to the method of the step, which weighs the layer's outputs by their information.

Rounding to a grid costs f step^2 / 24 on average; one bit more divides that by four.

Other costs were tried, and predict the error of a layer better, but not what the model loses (docs/log.md).

O output features, I input features, G groups, m inputs of a window.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.methods.allocate.allocation import Option, within_cost
from gossamer.methods.solve.grid import Grid, fit_groups

MOST = 0.95
"""No layer is pruned further than this, unless all are."""
MOST_BITS = 8
LEAST_IMPORTANCE = 0.05
"""Of the mean over outputs: what a few thousand tokens say of a single output is not exact."""
IGNORED_BITS = 18
"""Costs are counted by the other bits of a float32: 32 bins for each power of two."""


def output_importance(fisher_O: Tensor) -> Tensor:
    """Return the Fisher information of each output over the mean, a little raised; 1 if nothing depends on any."""
    mean = fisher_O.mean()
    return fisher_O / mean + LEAST_IMPORTANCE if bool(mean > 0) else torch.ones_like(fisher_O)


def rounding_cost(weight_OI: Tensor, grid: Grid, fisher_OI: Tensor) -> float:
    """Return what rounding the weights of a layer to a grid costs; RecipeError if groups do not divide the inputs."""
    scale_OG, _ = fit_groups(weight_OI, grid.model_copy(update={"search": False}))
    fisher_OG = fisher_OI.reshape(*scale_OG.shape, -1).sum(2)
    return float((scale_OG.square() * fisher_OG).sum()) / 12


def shared_bits(
    cost: Mapping[str, float],
    sizes: Mapping[str, float],
    widths: Mapping[str, Sequence[int]],
    average: float,
) -> dict[str, int]:
    """Return which of its widths each layer gets, `average` bits over all weights at most.

    `cost` is that of the first width, the least; one bit more divides it by four. Which layers get more is a knapsack
    (methods/allocate/allocation.py).
    """
    options = {
        name: [Option(width * sizes[name], cost[name] / 4 ** (width - own[0])) for width in own]
        for name, own in widths.items()
    }
    choice = within_cost(options, average * sum(sizes[name] for name in widths))
    assert choice is not None, "average_bits are above bits"
    return {name: widths[name][index] for name, index in choice.items()}


def window_gains(cost_OI: Tensor, m: int) -> Tensor:
    """Return what keeping one weight more of every m consecutive inputs of a row saves for each weight kept [O, m]."""
    num_windows = cost_OI.shape[1] // m
    windows_OWm = cost_OI[:, : num_windows * m].view(len(cost_OI), num_windows, m)
    return windows_OWm.sort(dim=2, descending=True).values.double().sum(1) / num_windows


def shared_windows(gains: Mapping[str, tuple[Tensor, int]], n: int, m: int) -> dict[str, list[int]]:
    """Return N of each row of each layer: at least 1, and n of m on average over all weights, or a little less.

    `gains` are the `window_gains` of a layer, and its inputs. What a row gains falls with every weight kept, so that
    the largest gains, whichever rows they are in, are the best choice.
    """
    gain_K = torch.cat([_with_first(gain_Om).reshape(-1) for gain_Om, _ in gains.values()])
    size_K = torch.cat(
        [
            gain_Om.new_full((gain_Om.numel(),), width / m, dtype=torch.float32)
            for gain_Om, width in gains.values()
        ]
    ).double()
    best_K = gain_K.sort(descending=True, stable=True).indices
    budget = n / m * sum(len(gain_Om) * width for gain_Om, width in gains.values())
    num_chosen = int((size_K[best_K].cumsum(0) <= budget * (1 + 1e-12)).sum())
    chosen_K = torch.zeros_like(gain_K, dtype=torch.bool)
    chosen_K[best_K[:num_chosen]] = True
    layers = chosen_K.split([gain_Om.numel() for gain_Om, _ in gains.values()])
    return {name: own.view(-1, m).sum(1).tolist() for name, own in zip(gains, layers, strict=True)}


def _with_first(gain_Om: Tensor) -> Tensor:
    """No row goes without a weight."""
    return torch.cat([torch.full_like(gain_Om[:, :1], torch.inf), gain_Om[:, 1:]], 1)


class SharedSparsity:
    """One sparsity over many layers: counts the costs of all their weights, and cuts off the cheapest."""

    def __init__(self, sparsity: float) -> None:
        self.sparsity = sparsity
        self._counts: dict[str, Tensor] = {}

    def add(self, name: str, cost_OI: Tensor) -> None:
        """Take in what each weight of a layer costs, >= 0."""
        bins = cost_OI.float().reshape(-1).view(torch.int32) >> IGNORED_BITS
        self._counts[name] = torch.bincount(bins, minlength=1 << (31 - IGNORED_BITS)).to(torch.int32)

    def sparsities(self) -> dict[str, float]:
        """Return the sparsity of each layer; together they prune exactly round(sparsity * weights)."""
        below = {name: counts.long().cumsum(0) for name, counts in self._counts.items()}
        totals = {name: int(sums[-1]) for name, sums in below.items()}
        most = {name: math.ceil(max(MOST, self.sparsity) * total) for name, total in totals.items()}
        wanted = round(self.sparsity * sum(totals.values()))
        pruned = torch.stack([sums.clamp_max(most[name]) for name, sums in below.items()])
        edge = int(torch.searchsorted(pruned.sum(0), wanted))
        before = pruned[:, edge - 1] if edge else pruned.new_zeros(len(pruned))
        inside = pruned[:, edge] - before
        missing = wanted - int(before.sum())
        ends = (inside.cumsum(0).double() * missing / max(int(inside.sum()), 1)).round().long()
        counts = before + ends.diff(prepend=ends.new_zeros(1))
        return {name: int(count) / totals[name] for name, count in zip(below, counts, strict=True)}
