"""The knapsack of one model and budget: who may have which level, and what the best assignments are.

Predicted losses are those of the cheap proxies, added up. What the methods really lose is learned from the models
that were verified: one factor for all dense levels and one for all sparse ones, by least squares on

    log(perplexity ratio) = losses outside + dense factor * dense losses + sparse factor * sparse losses

Embedding and head were measured with the very method that is used, so that their losses are believed.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

from gossamer.frontier.budget import Budget
from gossamer.frontier.costs import Costs
from gossamer.frontier.levels import DENSE, SPARSE, Assignment, fitting, is_sparse
from gossamer.methods.allocate.allocation import (
    Choice,
    Option,
    cheapest,
    climbs,
    owl,
    total,
    within_cost,
    within_loss,
)

FAMILIES = ("mixed", "dense", "sparse")
PRIOR = 0.1
"""Weight of the belief that a factor is 1, against a relative error of 1 in one verified model."""
RESERVE = 0.001
"""Share of a budget that is left free: bitmasks are padded by amounts that depend on where the zeros are."""
OWL_PERCENTS = tuple(range(30, 76))


@dataclass
class Problem:
    """The options of every matrix, with what they cost and lose; losses are corrected by `factors`."""

    costs: Costs
    budget: Budget
    loss_of: Callable[[str, str], float]
    """(matrix, level) -> predicted loss, uncorrected."""
    cost_of: Callable[[str, str], float]
    """(matrix, level) -> bytes or milliseconds."""
    fixed_cost: float = 0.0
    """Bytes or milliseconds that no level changes."""
    factors: tuple[float, float] = (1.0, 1.0)
    """Of dense and of sparse levels."""
    _loss: dict[tuple[str, str], float] = field(default_factory=dict)

    def loss(self, name: str, option: str) -> float:
        """The corrected loss of one matrix."""
        key = (name, option)
        if key not in self._loss:
            self._loss[key] = self.loss_of(name, option)
        return self._loss[key] * self._factor(name, option)

    def _factor(self, name: str, option: str) -> float:
        return 1.0 if name in self.costs.outside else self.factors[is_sparse(option)]

    def parts(self, family: str) -> tuple[dict[str, list[Option]], dict[str, list[str]]]:
        """Return the options of each matrix and their names."""
        names = {
            name: self.costs.options(name, sparse=family != "dense", dense=family != "sparse")
            for name in self.costs.shapes
        }
        return {name: self._options(name, chosen) for name, chosen in names.items()}, names

    def _options(self, name: str, chosen: Iterable[str]) -> list[Option]:
        return [Option(self.cost_of(name, option), self.loss(name, option)) for option in chosen]

    def assign(self, choice: Choice, names: Mapping[str, list[str]]) -> Assignment:
        return {name: names[name][option] for name, option in choice.items()}

    def best(self, family: str, scale: float = 1.0) -> Assignment | None:
        """Return the best assignment of a family within the budget, or `scale` times it; None if there is none."""
        parts, names = self.parts(family)
        choice = self._solve(parts, scale)
        return None if choice is None else self.assign(choice, names)

    def _solve(self, parts: Mapping[str, list[Option]], scale: float) -> Choice | None:
        if self.budget.key == "perplexity":
            return within_loss(parts, self.budget.largest_loss * scale)
        return within_cost(parts, self.budget.limit * scale * (1.0 - RESERVE) - self.fixed_cost)

    def uniform(self) -> Assignment | None:
        """Return the best assignment with one level for all linears of the blocks."""
        found = [
            self._with_linears(dict.fromkeys(self.costs.linears, option)) for option in (*DENSE, *SPARSE)
        ]
        return self.preferred(found)

    def by_owl(self, share_B: Sequence[float], blocks: Mapping[str, int]) -> Assignment | None:
        """Return sparsities by OWL with 4 bits, the lowest mean that a budget of bytes allows.

        `blocks` says in which block a linear is. Embedding and head get what they get in the best sparse assignment.
        """
        base = self.best("sparse") if self.budget.key == "size" else None
        for percent in OWL_PERCENTS if base is not None else ():
            sparsity_B = owl(share_B, percent / 100)
            found = dict(base or {})
            for name in self.costs.linears:
                option = f"sparse{100 * sparsity_B[blocks[name]]:.1f}-int4-g64"
                found[name] = fitting(option, self.costs.shapes[name][1])
            if self.cost(found) <= self.budget.limit:
                return found
        return None

    def _with_linears(self, linears: Mapping[str, str]) -> Assignment | None:
        """The best levels outside the blocks beside these inside, within the budget."""
        names = {
            name: [fitting(linears[name], self.costs.shapes[name][1])]
            if name in linears
            else self.costs.options(name, sparse=False)
            for name in self.costs.shapes
        }
        choice = self._solve({name: self._options(name, chosen) for name, chosen in names.items()}, 1.0)
        return None if choice is None else self.assign(choice, names)

    def preferred(self, assignments: Iterable[Assignment | None]) -> Assignment | None:
        """Return the one of least loss; of least cost where the budget is one of perplexity."""
        known = [each for each in assignments if each is not None]
        measure = self.cost if self.budget.key == "perplexity" else self.total_loss
        return min(known, key=measure, default=None)

    def cost(self, assignment: Assignment) -> float:
        """Bytes or milliseconds of the whole model."""
        return self.fixed_cost + self.matrix_cost(assignment)

    def matrix_cost(self, assignment: Assignment) -> float:
        """Bytes or milliseconds of the matrices alone."""
        return sum(self.cost_of(*pair) for pair in assignment.items())

    def total_loss(self, assignment: Assignment) -> float:
        """The predicted logarithm of the perplexity ratio."""
        return sum(self.loss(*pair) for pair in assignment.items())

    def split_loss(self, assignment: Assignment) -> tuple[float, float, float]:
        """The uncorrected losses of dense levels, of sparse levels, and outside the blocks."""
        sums = [0.0, 0.0, 0.0]
        for name, option in assignment.items():
            place = 2 if name in self.costs.outside else int(is_sparse(option))
            sums[place] += self.loss(name, option) / self._factor(name, option)
        return sums[0], sums[1], sums[2]

    def nearest(self) -> Assignment:
        """Return what comes nearest to a budget that cannot be reached: the cheapest, or the best."""
        parts, names = self.parts("mixed")
        choice = cheapest(parts)
        if self.budget.key == "perplexity":
            for climb in climbs(parts):
                choice[climb.part] = climb.option
        return self.assign(choice, names)

    def front(self, count: int) -> list[Assignment]:
        """Return `count` assignments from the cheapest to the best, at even distances of log cost."""
        parts, names = self.parts("mixed")
        low = total(parts, cheapest(parts)).cost
        best = cheapest(parts)
        for climb in climbs(parts):
            best[climb.part] = climb.option
        high = total(parts, best).cost
        targets = np.geomspace(self.fixed_cost + low, self.fixed_cost + high, count) - self.fixed_cost
        found = [within_cost(parts, float(target) * (1 + 1e-9)) for target in targets]
        return [self.assign(choice, names) for choice in found if choice is not None]


def fitted_factors(verified: Iterable[tuple[tuple[float, float, float], float]]) -> tuple[float, float]:
    """Return the factors of dense and sparse losses.

    Args:
        verified: (losses as `split_loss` gives them, log of the measured perplexity ratio) of each model.
    """
    rows, wanted = [[PRIOR, 0.0], [0.0, PRIOR]], [PRIOR, PRIOR]
    for (dense, sparse, outside), measured in verified:
        rest = max(measured - outside, 0.0)
        size = max(rest, 1e-3)
        rows.append([dense / size, sparse / size])
        wanted.append(rest / size)
    found, _ = nnls(np.array(rows), np.array(wanted))
    return max(float(found[0]), 1e-3), max(float(found[1]), 1e-3)


def ratio_of(loss: float) -> float:
    """The perplexity ratio of a loss."""
    return math.exp(min(loss, 700.0))
