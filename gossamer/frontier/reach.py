"""Budgets that no recipe can have are refused before anything long is begun; the message names the nearest."""

from gossamer.errors import UsageError
from gossamer.frontier.budget import Budget
from gossamer.frontier.costs import Costs
from gossamer.frontier.state import State


def require_reachable_size(costs: Costs, budget: Budget) -> None:
    """Raise UsageError if every matrix at its smallest level is more than a budget of bytes allows."""
    if budget.key != "size":
        return
    least = costs.fixed_bytes + sum(
        min(costs.bytes(name, option) for option in costs.options(name, sparse=True)) for name in costs.shapes
    )
    if least > budget.limit:
        raise UsageError(
            f"--budget {budget.text}: out of reach. The nearest, every matrix at its smallest level, takes "
            f"{least / 1e6:.1f} MB."
        )


def require_reachable_latency(costs: Costs, budget: Budget, state: State) -> None:
    """Raise UsageError if every matrix at its fastest level takes longer than a budget of milliseconds allows."""
    least = sum(
        min(costs.milliseconds(name, option, state) for option in costs.options(name, sparse=True))
        for name in costs.shapes
    )
    if least > budget.limit:
        raise UsageError(
            f"--budget {budget.text}: out of reach. The nearest, every matrix at its fastest level, takes "
            f"{least:.3g} ms for the products alone."
        )
