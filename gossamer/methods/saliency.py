"""What removing single weights costs the model, and one sparsity that many layers share by it.

Removing w_oj and moving the other weights of its row so that they make up for it best costs the outputs
w_oj^2 / [H^-1]_jj (Optimal Brain Surgeon, Hassibi and Stork 1993; SparseGPT, arXiv 2301.00774, eq. 3), H the Gram
matrix of the inputs. A squared error of output o costs the model f_o / 2, f the Fisher information of the output
(calibration/gradients.py). Their product compares weights of different layers, as in Optimal BERT Surgeon (Kurtic et
al. 2022, arXiv 2203.07259), here with curvature that factors into inputs and outputs.

The sum over the cheapest weights predicts what ADMM loses on SmolLM2-135M to within a few percent for most layers
(docs/log.md), so the sparsity of a layer is its share of weights below one threshold over all of them.

O output features, I input features.
"""

import torch
from torch import Tensor

from gossamer.methods.linear_algebra import damped_factor

DAMPING = 0.01
MOST = 0.95
"""No layer is pruned further than this."""
LEAST_IMPORTANCE = 0.05
"""Of the mean over outputs: what a few thousand tokens say of a single output is not exact."""
IGNORED_BITS = 18
"""Costs are counted by the other bits of a float32: 32 bins for each power of two."""


def input_cost(gram_II: Tensor, notes: list[str]) -> Tensor:
    """Return 1 / [H^-1]_jj of each input j, float32 [I]; errors as `damped_factor`. Dead inputs cost nothing."""
    factor = damped_factor(gram_II, DAMPING, notes)
    cost_I = 1.0 / torch.cholesky_inverse(factor.lower_II).diagonal()
    return cost_I.masked_fill(factor.dead_I, 0.0).float()


def output_importance(fisher_O: Tensor) -> Tensor:
    """Return the Fisher information of each output over the mean, a little raised; 1 if nothing depends on any."""
    mean = fisher_O.mean()
    return fisher_O / mean + LEAST_IMPORTANCE if bool(mean > 0) else torch.ones_like(fisher_O)


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
        """Return the sparsity of each layer; together they prune round(sparsity * weights), if `MOST` allows it."""
        below = {name: counts.long().cumsum(0) for name, counts in self._counts.items()}
        totals = {name: int(sums[-1]) for name, sums in below.items()}
        most = {name: int(MOST * total) for name, total in totals.items()}
        wanted = min(round(self.sparsity * sum(totals.values())), sum(most.values()))
        pruned = torch.stack([sums.clamp_max(most[name]) for name, sums in below.items()])
        edge = int(torch.searchsorted(pruned.sum(0), wanted))
        before = pruned[:, edge - 1] if edge else torch.zeros(len(pruned), dtype=torch.int64)
        inside = pruned[:, edge] - before
        missing = wanted - int(before.sum())
        ends = (inside.cumsum(0).double() * missing / max(int(inside.sum()), 1)).round().long()
        counts = before + ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
        return {name: int(count) / totals[name] for name, count in zip(below, counts, strict=True)}
