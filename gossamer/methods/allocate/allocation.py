"""Allocation: how much sparsity and how many bits each part of a model gets.

Uniform needs nothing. OWL (Yin et al. 2023, arXiv 2310.05175, section 3) looks at outliers: with A = |W| ||x|| over all
linears of a block, D = share of A above M mean(A), and D rescaled to [0, 2 lambda], a block gets the sparsity
1 - (D - mean(D) + 1 - S): blocks with more outliers are pruned less, the mean stays S.

By measured loss: every part has options, each with a cost (bytes or milliseconds) and a loss (KL divergence when only
this part is changed), and losses add up. That is the multiple-choice knapsack (Sinha and Zoltners 1979): each part
starts at its cheapest option and climbs the lower convex hull of its options; all climbs are taken in the order of what
they gain for their cost. The result is optimal for every budget that a climb ends on, and else less than one climb away
from what fractions of an option could reach.

O output features, I input features.
Cost: OWL two passes over all weights; the knapsack a sort of all options.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Choice = dict[str, int]
"""Part -> number of its option."""
MOST = 0.99
"""No block is pruned further than this."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to store a part."""

    cost: float
    """Bytes or milliseconds."""
    loss: float
    """What it adds to the loss of the model; >= 0."""


@dataclass(frozen=True, slots=True)
class Climb:
    """One step of a part to its next option on the hull."""

    part: str
    option: int
    cost: float
    gain: float


def outlier_share(score_OI: Iterable[Tensor], multiple: float = 5.0) -> float:
    """Return the share of a block's scores |W| ||x|| that are above `multiple` times their mean, 0..1."""
    scores = [score.flatten() for score in score_OI]
    mean = float(sum(score.double().sum() for score in scores)) / sum(len(score) for score in scores)
    above = sum(int((score > multiple * mean).sum()) for score in scores)
    return above / sum(len(score) for score in scores)


def owl(outlier_share_B: Sequence[float], sparsity: float, spread: float = 0.08) -> list[float]:
    """Return the sparsity of each of B blocks (OWL); the mean is `sparsity`, none is further than 2 `spread` from it.

    Equal shares give uniform sparsity. What would leave 0..0.99 is cut there, which moves the mean.
    """
    share_B = torch.tensor(list(outlier_share_B), dtype=torch.float64, device="cpu")
    width = float(share_B.max() - share_B.min())
    if width == 0.0:
        return [sparsity] * len(share_B)
    scaled_B = (share_B - share_B.min()) / width * 2 * spread
    sparsity_B = 1.0 - (scaled_B - scaled_B.mean() + 1.0 - sparsity)
    return [float(value) for value in sparsity_B.clamp(0.0, MOST)]


def hull(options: Sequence[Option]) -> list[int]:
    """Return the options on the lower convex hull of (cost, loss), from the cheapest on, losses falling."""
    order = sorted(range(len(options)), key=lambda i: (options[i].cost, options[i].loss))
    kept: list[int] = []
    for index in order:
        if kept and options[index].loss >= options[kept[-1]].loss:
            continue
        while len(kept) > 1 and _slope(options, kept[-2], kept[-1]) <= _slope(options, kept[-1], index):
            kept.pop()
        kept.append(index)
    return kept


def _slope(options: Sequence[Option], start: int, end: int) -> float:
    """What is gained for each unit of cost."""
    return (options[start].loss - options[end].loss) / (options[end].cost - options[start].cost)


def cheapest(parts: Mapping[str, Sequence[Option]]) -> Choice:
    """Return the least cost of all; of equal costs the least loss."""
    return {name: hull(options)[0] for name, options in parts.items()}


def climbs(parts: Mapping[str, Sequence[Option]]) -> list[Climb]:
    """Return every step from the cheapest choice to the best, the one that gains most for its cost first."""
    found: list[Climb] = []
    for name, options in parts.items():
        steps = hull(options)
        for before, after in pairwise(steps):
            cost = options[after].cost - options[before].cost
            found.append(Climb(name, after, cost, options[before].loss - options[after].loss))
    return sorted(found, key=lambda climb: -climb.gain / climb.cost)


def within_cost(parts: Mapping[str, Sequence[Option]], budget: float) -> Choice | None:
    """Return the choice of least loss that costs at most `budget`; None if even the cheapest costs more."""
    choice = cheapest(parts)
    spent = total(parts, choice).cost
    if spent > budget:
        return None
    closed: set[str] = set()
    for climb in climbs(parts):
        if climb.part in closed:
            continue
        if spent + climb.cost > budget:
            closed.add(climb.part)
            continue
        choice[climb.part] = climb.option
        spent += climb.cost
    return choice


def within_loss(parts: Mapping[str, Sequence[Option]], limit: float) -> Choice | None:
    """Return the choice of least cost that loses at most `limit`; None if even the best loses more."""
    choice = cheapest(parts)
    lost = total(parts, choice).loss
    for climb in climbs(parts):
        if lost <= limit:
            return choice
        choice[climb.part] = climb.option
        lost -= climb.gain
    return choice if total(parts, choice).loss <= limit else None


def total(parts: Mapping[str, Sequence[Option]], choice: Choice) -> Option:
    """Return the cost and the loss of a whole choice."""
    chosen = [options[choice[name]] for name, options in parts.items()]
    return Option(sum(each.cost for each in chosen), sum(each.loss for each in chosen))
