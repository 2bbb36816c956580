"""What a search knows for certain: the dense model, and the candidates that were compressed and measured."""

import hashlib
import json

from gossamer.errors import UsageError
from gossamer.frontier.budget import Budget
from gossamer.frontier.levels import Assignment
from gossamer.frontier.record import DenseFigures, Record, Verified, from_dict, record_from_dict
from gossamer.frontier.state import State

FIRST_FACTOR, MARGIN = 1.3, 1.15
"""How wrong an expected time may be, before a run was timed and after."""


class Findings:
    """The measured models of one folder, held against one budget. Raises UsageError where they cannot be read."""

    def __init__(self, state: State, budget: Budget) -> None:
        self.state, self.budget = state, budget
        try:
            self.dense = from_dict(DenseFigures, state.section("dense")["figures"])
            self.records: dict[str, Record] = {
                key: record_from_dict(values) for key, values in state.section("verified").items()
            }
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"{state.path}: what another version of Gossamer has verified is not readable ({error!s:.100}). "
                "Remove the folder, or choose another -o."
            ) from error

    def add(self, record: Record) -> None:
        """Keep a record, on disk at once."""
        key = digest(record.candidate.assignment)
        self.records[key] = record
        self.state.put("verified", key, record.to_dict())
        self.state.save()

    def verified(self) -> list[Verified]:
        """The models that were measured, in that order, without failures."""
        return [each for each in self.records.values() if isinstance(each, Verified)]

    def ratio(self, model: Verified) -> float:
        """The measured perplexity over the dense one's."""
        return model.figures.perplexity / self.dense.perplexity

    def allows(self, model: Verified) -> bool:
        """True if a measured model is within the budget."""
        figures = model.figures
        return self.budget.allows(figures.size_bytes, figures.latency_ms, self.ratio(model))

    def time_factor(self) -> float:
        """What to multiply an expected time by: how much longer the slowest run so far took, and a margin."""
        known = [each.time_factor for each in self.verified()]
        return MARGIN * max(known) if known else FIRST_FACTOR

    def chosen(self) -> Verified | None:
        """The best model within the budget, else the one nearest to it; None if none was measured."""
        within = [each for each in self.verified() if self.allows(each)]
        if within:
            return min(within, key=self.aim)
        return min(self.verified(), key=self._limited, default=None)

    def aim(self, model: Verified) -> float:
        """What is to be small within the budget: the perplexity, or for a budget of perplexity the size."""
        return model.figures.size_bytes if self.budget.key == "perplexity" else model.figures.perplexity

    def _limited(self, model: Verified) -> float:
        """What the budget limits."""
        figures = model.figures
        if self.budget.key == "latency":
            assert figures.latency_ms is not None
            return figures.latency_ms
        return figures.size_bytes if self.budget.key == "size" else figures.perplexity


def digest(assignment: Assignment) -> str:
    """A short name of an assignment."""
    text = json.dumps(assignment, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
