"""What is worth verifying next, most useful first."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

from gossamer.frontier.findings import Findings, digest
from gossamer.frontier.job import Job
from gossamer.frontier.levels import ANCHORS, Assignment, is_sparse
from gossamer.frontier.problem import Problem
from gossamer.frontier.proxy import ProxyModel
from gossamer.frontier.record import Candidate, Evolution, Record, Verified, from_dict
from gossamer.frontier.refine import refine
from gossamer.methods.allocate.allocation import outlier_share

EVOLUTION_SHARE = 0.1
"""Of the time that is given."""
SCALES = (0.85, 1.2, 0.7, 1.45)
"""Other budgets that are verified for the front, times the one given."""
SAME_COST, SAME_LOSS = 0.004, 0.02
"""Assignments that are closer than this in both are not verified twice."""
PASSES = 8
"""What observing costs besides solving, in forward passes over the calibration text."""
AT_BUDGET = 3
"""Tries to hit the budget with the best assignment, each corrected by the ones before."""

Idea = tuple[str, str, Callable[[], Assignment | None]]
"""Name, family, and what works the assignment out (None: there is none)."""


class Candidates:
    """The candidates of one search; each depends on what was verified before."""

    def __init__(self, job: Job, proxy: ProxyModel, problem: Problem, findings: Findings) -> None:
        self.job, self.proxy, self.problem, self.findings = job, proxy, problem, findings
        self.state = job.state

    def next(self) -> Candidate | None:
        """The next thing to verify that is not like anything verified; None if nothing is left."""
        for name, family, make in self._ideas():
            tries = [each for each in self.findings.records.values() if each.candidate.name == name]
            if self._is_open(family, tries):
                assignment = make()
                if assignment is not None and not self._known(assignment, bool(tries)):
                    return Candidate(name, family, assignment)
        return None

    def expected_seconds(self, assignment: Assignment) -> float:
        """How long verifying takes by its parts: solving, observing, evaluating."""
        shapes = self.job.costs.shapes
        known = self.state.section("solve_seconds")
        tokens = self.job.calibration.samples * self.job.calibration.length
        solving = sum(
            math.prod(shapes[name]) * known.get(option, known.get(ANCHORS[is_sparse(option)], 0.0))
            for name, option in assignment.items()
        )
        observing = PASSES * tokens * float(self.state.section("speed")["forward_seconds_per_token"])
        return float(solving) + observing + self.findings.dense.evaluate_seconds

    def _ideas(self) -> list[Idea]:
        problem, budget = self.problem, self.job.budget.text
        ideas: list[Idea] = [(f"best at {budget}", "mixed", self._best)]
        ideas += [
            (f"{family} at {budget}", family, partial(problem.best, family)) for family in ("dense", "sparse")
        ]
        ideas.append((f"uniform at {budget}", "uniform", problem.uniform))
        ideas += [
            (f"front at {scale:g} x {budget}", "front", partial(problem.best, "mixed", scale))
            for scale in SCALES
        ]
        ideas.append((f"owl at {budget}", "owl", self._owl))
        return ideas

    def _is_open(self, family: str, tries: Sequence[Record]) -> bool:
        """True for what was not tried; the best at the budget may be tried again, others if they missed the budget."""
        if family == "mixed":
            return len(tries) < AT_BUDGET
        missed = [each for each in tries if isinstance(each, Verified) and not self.findings.allows(each)]
        return not tries or (family != "front" and len(tries) == len(missed) < 2)

    def _known(self, assignment: Assignment, again: bool) -> bool:
        """True if it was verified, or something like it; when trying again, only if that was within the budget."""
        cost, loss = self.problem.cost(assignment), self.problem.total_loss(assignment)
        for each in self.findings.records.values():
            other = each.candidate.assignment
            if other == assignment:
                return True
            if again and not (isinstance(each, Verified) and self.findings.allows(each)):
                continue
            if any(map(is_sparse, other.values())) != any(map(is_sparse, assignment.values())):
                continue  # dense and sparse are to be compared however close they are
            near = abs(self.problem.cost(other) / cost - 1) < SAME_COST
            if near and abs(self.problem.total_loss(other) / max(loss, 1e-9) - 1) < SAME_LOSS:
                return True
        return False

    def _best(self) -> Assignment | None:
        """The best assignment at the budget, evolved; the nearest one where the budget is out of reach."""
        start = self.problem.best("mixed")
        if start is None:
            return self.problem.nearest()
        key = digest(start)
        if key not in self.state.section("evolved"):
            spent = sum(each["seconds"] for each in self.state.section("evolved").values())
            verifying = self.findings.time_factor() * self.expected_seconds(start)
            seconds = min(EVOLUTION_SHARE * self.job.seconds - spent, self.job.seconds_left() - verifying)
            if seconds <= 0:
                return start
            evolution = refine(
                self.proxy, self.problem, start, "mixed", self.state,
                seed=self.job.calibration.seed, seconds=seconds, progress=self.job.progress,
            )  # fmt: skip
            self.state.put("evolved", key, asdict(evolution))
        return from_dict(Evolution, self.state.section("evolved")[key]).assignment

    def _owl(self) -> Assignment | None:
        """OWL's sparsities on this model."""
        parts = self.job.source.architecture
        norms = self.proxy.norm_I
        if "owl" not in self.state.section("outliers"):
            shares = [
                outlier_share(
                    [
                        self.proxy.weight(name).abs() * norms[name]
                        for name in parts.linears(block)
                        if name in norms
                    ]
                )
                for block in parts.blocks
            ]
            self.state.put("outliers", "owl", shares)
        blocks = {name: number for number, block in enumerate(parts.blocks) for name in parts.linears(block)}
        return self.problem.by_owl(self.state.section("outliers")["owl"], blocks)
