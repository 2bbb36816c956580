"""What predictions are made of: sensitivities, what methods lose, costs; and what is learned from verified models."""

import math
import statistics
import time
from collections.abc import Callable

from torch import Tensor

from gossamer.data.samples import sample
from gossamer.data.sources import read_documents
from gossamer.data.tokens import tokenize
from gossamer.frontier.costs import time_kernels
from gossamer.frontier.findings import Findings
from gossamer.frontier.job import Job
from gossamer.frontier.levels import DENSE, OUTSIDE, SPARSE, Assignment
from gossamer.frontier.problem import Problem, fitted_factors, ratio_of
from gossamer.frontier.proxy import ProxyModel
from gossamer.frontier.reach import require_reachable_latency
from gossamer.frontier.record import Predicted
from gossamer.frontier.sensitivity import Losses, Sweep, discounts, plan_sweep, sweep_blocks, sweep_outside

WINDOW, MOST_WINDOWS, METHOD_WINDOWS = 256, 4, 24
"""Tokens in a window; windows that sensitivities are measured on, and that methods are tried on besides."""
SWEEP_SHARE = 0.3
"""Of the time that is given."""


def measure(job: Job) -> tuple[ProxyModel, Problem]:
    """Measure what predictions are made of, as far as it is not known already, and return the problem to solve.

    Raises UsageError where no level of the matrices is fast enough for a budget of latency.
    """
    state, progress, costs = job.state, job.progress, job.costs
    if job.budget.key == "latency":
        time_kernels(costs, state, progress)
        require_reachable_latency(costs, job.budget, state)
    ids_NL = _windows(job)
    proxy = ProxyModel(job.source, ids_NL[:MOST_WINDOWS])
    sweep = _sweep(job, proxy)
    discounts(proxy, (*DENSE, *SPARSE, *OUTSIDE), ids_NL, state, progress)
    sweep_outside(proxy, costs.outside, state, progress)
    until = time.monotonic() + SWEEP_SHARE * 1.5 * job.seconds
    sweep_blocks(proxy, sweep, state, progress, lambda: until - time.monotonic())
    losses = Losses(proxy, state)
    losses.prepare({name: costs.options(name, sparse=True) for name in costs.shapes}, progress)
    return proxy, Problem(costs, job.budget, losses.of, _cost_of(job))


def _windows(job: Job) -> Tensor:
    """ids_NL from the part that calibrates: the first for sensitivities, more to try the methods on."""
    vocabulary = job.source.config.get_text_config().vocab_size
    stream = tokenize(read_documents(job.texts[0]), job.source.tokenizer(), "calibration", vocabulary)
    length = min(WINDOW, job.calibration.length, len(stream))
    count = min(MOST_WINDOWS + METHOD_WINDOWS, len(stream) // length)
    return sample(stream, count, length, job.calibration.seed)


def _sweep(job: Job, proxy: ProxyModel) -> Sweep:
    """How thoroughly to measure, from the time of one forward pass; decided once."""
    speed = job.state.section("speed")
    if "sweep" not in speed:
        started = time.perf_counter()
        proxy.kl(1)
        one = time.perf_counter() - started
        seconds, num_parts = SWEEP_SHARE * job.seconds, len(job.costs.linears)
        windows = len(proxy.dense_NLV)
        while windows > 1 and num_parts * 0.6 * one * windows > seconds:
            windows -= 1
        plan = plan_sweep(num_parts, one * windows, seconds)
        job.state.put("speed", "forward_seconds_per_token", one / len(proxy.dense_NLV[0]))
        job.state.put("speed", "windows", windows)
        job.state.put("speed", "sweep", [list(plan.anchors), plan.every])
    proxy.use(speed["windows"])
    anchors, every = speed["sweep"]
    return Sweep(tuple(anchors), every)


def _cost_of(job: Job) -> Callable[[str, str], float]:
    if job.budget.key == "latency":
        return lambda name, option: job.costs.milliseconds(name, option, job.state)
    return job.costs.bytes


def learn(problem: Problem, findings: Findings) -> None:
    """Take from what was verified how far predictions are off, and what there is besides the matrices."""
    verified = findings.verified()
    problem.factors = fitted_factors(
        (problem.split_loss(each.candidate.assignment), math.log(findings.ratio(each))) for each in verified
    )
    if problem.budget.key == "latency":
        # kernels that were timed on a busier machine than models would leave less than nothing
        rest = [
            each.figures.latency_ms - problem.matrix_cost(each.candidate.assignment)
            for each in verified
            if each.figures.latency_ms is not None
        ]
        problem.fixed_cost = max(statistics.median(rest), 0.0) if rest else 0.0
    else:
        rest = [each.figures.size_bytes - problem.matrix_cost(each.candidate.assignment) for each in verified]
        problem.fixed_cost = max(rest) if rest else float(problem.costs.fixed_bytes)


def predict(problem: Problem, assignment: Assignment) -> Predicted:
    """Return what is expected of an assignment."""
    costs = problem.costs
    matrices = sum(costs.bytes(*pair) for pair in assignment.items())
    timed = problem.budget.key == "latency"
    return Predicted(
        size_bytes=matrices + (costs.fixed_bytes if timed else problem.fixed_cost),
        latency_ms=problem.cost(assignment) if timed else None,
        perplexity_ratio=ratio_of(problem.total_loss(assignment)),
    )
