"""One search while it runs: what it measures, what it predicts from that, and what it verifies next.

Everything measured goes to the state, so that a search that was stopped goes on.
"""

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gossamer.checkpoint.source import Source
from gossamer.data.samples import sample
from gossamer.data.sources import read_documents
from gossamer.data.tokens import start_tokens, tokenize
from gossamer.errors import GossamerError
from gossamer.frontier.budget import Budget
from gossamer.frontier.costs import Costs, time_kernels
from gossamer.frontier.folder import open_folder
from gossamer.frontier.levels import ANCHORS, DENSE, OUTSIDE, SPARSE, Assignment, is_sparse, recipe_of
from gossamer.frontier.problem import Problem, fitted_factors, ratio_of
from gossamer.frontier.proxy import StandIn
from gossamer.frontier.reach import require_reachable_latency, require_reachable_size
from gossamer.frontier.refine import refine
from gossamer.frontier.sensitivity import Losses, Sweep, discounts, plan_sweep, sweep_blocks, sweep_outside
from gossamer.frontier.verify import discard, expected_seconds, measure_dense, time_factor, verify
from gossamer.methods.allocate.allocation import outlier_share
from gossamer.progress import Progress
from gossamer.recipe.recipe import Calibration, Recipe
from gossamer.runtime.choose import choose_engine

WINDOW, MOST_WINDOWS, METHOD_WINDOWS = 256, 4, 24
"""Tokens in a window; windows that sensitivities are measured on, and that methods are tried on besides."""
SWEEP_SHARE, EVOLUTION_SHARE = 0.3, 0.1
"""Of the time that is given."""
SCALES = (0.85, 1.2, 0.7, 1.45)
"""Other budgets that are verified for the front, times the one given."""
SAME_COST, SAME_LOSS = 0.004, 0.02
"""Assignments that are closer than this in both are not verified twice."""
AT_BUDGET = 3
"""Tries to hit the budget with the best assignment, each corrected by the ones before."""
CANDIDATE, KEPT = "candidate", "model"
"""Folders of the model that is being verified, and of the best so far."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Something that is worth verifying."""

    name: str
    family: str
    assignment: Assignment


class Hunt:
    """One search: what it was asked, what it has measured, and the clock."""

    def __init__(
        self,
        source: Source,
        model: str,
        budget: Budget,
        calibration: Calibration,
        windows: int,
        minutes: float,
        progress: Progress,
    ) -> None:
        self.source, self.model, self.budget, self.calibration = source, model, budget, calibration
        self.windows, self.seconds, self.progress = windows, 60 * minutes, progress
        self.started = time.monotonic()
        self.costs = Costs(source)
        self.native = choose_engine(model) == "native"
        self.notes: list[str] = []
        require_reachable_size(self.costs, budget)

    def left(self) -> float:
        """Seconds until the time is up."""
        return self.seconds - (time.monotonic() - self.started)

    def open(self, text: str, out: Path) -> None:
        """Make the folder, or open what an earlier search left there, and split the text."""
        arguments = {
            "model": self.source.path.name,
            "weights": self.source.fingerprint(),
            "text": Path(text).name,
            "calibration": self.calibration.model_dump(),
            "windows": self.windows,
        }
        if start := start_tokens(self.source.tokenizer()):
            arguments["start_tokens"] = list(
                start
            )  # figures of windows that open otherwise cannot be gone on with
        self.out = out
        self.state, self.texts = open_folder(text, out, arguments)

    # ---- measure ------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Everything that predictions are made of."""
        state = self.state
        if "figures" not in state.section("dense"):
            figures = measure_dense(self.model, self.texts[1], self.windows, self.native, self.progress)
            state.put("dense", "figures", figures)
        if self.budget.key == "latency":
            time_kernels(self.costs, state, self.progress)
            require_reachable_latency(self.costs, self.budget, state)
        ids_NL = self._windows()
        self.standin = StandIn(self.source, ids_NL[:MOST_WINDOWS])
        sweep = self._sweep()
        discounts(self.standin, (*DENSE, *SPARSE, *OUTSIDE), ids_NL, state, self.progress)
        sweep_outside(self.standin, self.costs.outside, state, self.progress)
        until = time.monotonic() + SWEEP_SHARE * 1.5 * self.seconds
        sweep_blocks(self.standin, sweep, state, self.progress, lambda: until - time.monotonic())
        self.losses = Losses(self.standin, state)
        options = {name: self.costs.options(name, sparse=True) for name in self.costs.shapes}
        self.losses.prepare(options, self.progress)
        self.problem = Problem(self.costs, self.budget, self.losses.of, self._cost_of())
        self._learn()

    def _windows(self) -> torch.Tensor:
        """ids_NL from the part that calibrates: the first for sensitivities, more to try the methods on."""
        tokenizer = self.source.tokenizer()
        vocabulary = self.source.config.get_text_config().vocab_size
        stream = tokenize(read_documents(self.texts[0]), tokenizer, "calibration", vocabulary)
        length = min(WINDOW, self.calibration.length, len(stream))
        count = min(MOST_WINDOWS + METHOD_WINDOWS, len(stream) // length)
        return sample(stream, count, length, self.calibration.seed)

    def _sweep(self) -> Sweep:
        """How thoroughly to measure, from the time of one forward pass; decided once."""
        speed = self.state.section("speed")
        if "sweep" not in speed:
            started = time.perf_counter()
            self.standin.kl(1)
            one = time.perf_counter() - started
            seconds, num_parts = SWEEP_SHARE * self.seconds, len(self.costs.linears)
            windows = len(self.standin.dense_NLV)
            while windows > 1 and num_parts * 0.6 * one * windows > seconds:
                windows -= 1
            plan = plan_sweep(num_parts, one * windows, seconds)
            self.state.put("speed", "forward_seconds_per_token", one / len(self.standin.dense_NLV[0]))
            self.state.put("speed", "windows", windows)
            self.state.put("speed", "sweep", [list(plan.anchors), plan.every])
        self.standin.use(speed["windows"])
        anchors, every = speed["sweep"]
        return Sweep(tuple(anchors), every)

    def _cost_of(self) -> Callable[[str, str], float]:
        if self.budget.key == "latency":
            return lambda name, option: self.costs.milliseconds(name, option, self.state)
        return self.costs.bytes

    def _learn(self) -> None:
        """Take from what was verified how far predictions are off, and what there is besides the matrices."""
        verified, problem = self.measured(), self.problem
        problem.factors = fitted_factors(
            (problem.split_loss(each["assignment"]), math.log(self.ratio(each))) for each in verified
        )
        figure = "latency_ms" if self.budget.key == "latency" else "size_bytes"
        rest = [each[figure] - problem.matrix_cost(each["assignment"]) for each in verified]
        if self.budget.key == "latency":
            # kernels that were timed on a busier machine than models would leave less than nothing
            problem.fixed_cost = max(statistics.median(rest), 0.0) if rest else 0.0
        else:
            problem.fixed_cost = max(rest) if rest else float(self.costs.fixed_bytes)

    def _verified(self) -> dict[str, Any]:
        return self.state.section("verified")

    # ---- verify -------------------------------------------------------------------------------------------

    def verify_all(self, keep: bool) -> None:
        """Verify what is worth it, most useful first, while there is time."""
        while (wish := self._next_wish()) is not None:
            expected = time_factor(self.state) * self._base_seconds(wish.assignment)
            if expected > self.left():
                self.notes.append(
                    f"time is up: verifying '{wish.name}' would take about {expected:.0f} s, "
                    f"{max(self.left(), 0):.0f} s were left"
                )
                break
            self._verify(wish, keep)
        self.state.save()

    def _base_seconds(self, assignment: Assignment) -> float:
        """How long a verification takes by its parts."""
        weights = {name: math.prod(shape) for name, shape in self.costs.shapes.items()}
        known = self.state.section("solve_seconds")
        tokens = self.calibration.samples * self.calibration.length
        return expected_seconds(
            assignment, weights, tokens, self.state,
            lambda option: known.get(option, known.get(ANCHORS[is_sparse(option)], 0.0)),
        )  # fmt: skip

    def _next_wish(self) -> Wish | None:
        """The next thing to verify that is not like anything verified; None if nothing is left."""
        for name, family, make in self._wishes():
            tries = [each for each in self._verified().values() if each["name"] == name]
            if self._is_open(family, tries):
                assignment = make()
                if assignment is not None and not self._known(assignment, bool(tries)):
                    return Wish(name, family, assignment)
        return None

    def _is_open(self, family: str, tries: list[dict[str, Any]]) -> bool:
        """True for what was not tried; the best at the budget may be tried again, others if they missed the budget."""
        if family == "mixed":
            return len(tries) < AT_BUDGET
        missed = [each for each in tries if "perplexity" in each and not self.allowed(each)]
        return not tries or (family != "front" and len(tries) == len(missed) < 2)

    def _wishes(self) -> list[tuple[str, str, Callable[[], Assignment | None]]]:
        problem = self.problem
        wishes: list[tuple[str, str, Callable[[], Assignment | None]]] = []
        wishes.append((f"best at {self.budget.text}", "mixed", self._best))
        for family in ("dense", "sparse"):
            wishes.append((f"{family} at {self.budget.text}", family, partial(problem.best, family)))
        wishes.append((f"uniform at {self.budget.text}", "uniform", problem.uniform))
        for scale in SCALES:
            name = f"front at {scale:g} x {self.budget.text}"
            wishes.append((name, "front", partial(problem.best, "mixed", scale)))
        wishes.append((f"owl at {self.budget.text}", "owl", self._owl))
        return wishes

    def _best(self) -> Assignment | None:
        """The best assignment at the budget, evolved; the nearest one where the budget is out of reach."""
        start = self.problem.best("mixed")
        if start is None:
            return self.problem.nearest()
        key = _digest(start)
        if key not in self.state.section("evolved"):
            spent = sum(each["seconds"] for each in self.state.section("evolved").values())
            verifying = time_factor(self.state) * self._base_seconds(start)
            seconds = min(EVOLUTION_SHARE * self.seconds - spent, self.left() - verifying)
            if seconds <= 0:
                return start
            began = time.monotonic()
            found = refine(
                self.standin, self.problem, start, "mixed", self.state,
                seed=self.calibration.seed, seconds=seconds, progress=self.progress,
            )  # fmt: skip
            evolved = {
                "assignment": found.assignment,
                "kl_before": found.kl_before,
                "kl_after": found.kl_after,
                "generations": found.generations,
                "seconds": time.monotonic() - began,
            }
            self.state.put("evolved", key, evolved)
        assignment: Assignment = self.state.section("evolved")[key]["assignment"]
        return assignment

    def _owl(self) -> Assignment | None:
        """OWL's sparsities on this model."""
        parts = self.source.architecture
        if "owl" not in self.state.section("outliers"):
            shares = [
                outlier_share(
                    [
                        self.standin.weight(name).abs() * self.standin.norm_I[name]
                        for name in parts.linears(block)
                        if name in self.standin.norm_I
                    ]
                )
                for block in parts.blocks
            ]
            self.state.put("outliers", "owl", shares)
        blocks = {name: number for number, block in enumerate(parts.blocks) for name in parts.linears(block)}
        return self.problem.by_owl(self.state.section("outliers")["owl"], blocks)

    def _known(self, assignment: Assignment, again: bool) -> bool:
        """True if it was verified, or something like it; when trying again, only if that was within the budget."""
        cost, loss = self.problem.cost(assignment), self.problem.total_loss(assignment)
        for each in self._verified().values():
            other = each["assignment"]
            if other == assignment:
                return True
            if again and not ("perplexity" in each and self.allowed(each)):
                continue
            if any(map(is_sparse, other.values())) != any(map(is_sparse, assignment.values())):
                continue  # dense and sparse are to be compared however close they are
            near = abs(self.problem.cost(other) / cost - 1) < SAME_COST
            if near and abs(self.problem.total_loss(other) / max(loss, 1e-9) - 1) < SAME_LOSS:
                return True
        return False

    def _verify(self, wish: Wish, keep: bool) -> None:
        """Verify one assignment, learn from it, and keep its folder if it is the best and that was asked for."""
        number = len(self._verified()) + 1
        folder = self.out / CANDIDATE
        record: dict[str, Any] = {
            "name": wish.name,
            "family": wish.family,
            "assignment": wish.assignment,
            "predicted": self.predicted(wish.assignment),
        }
        recipe = self.recipe(wish.name, wish.assignment)
        started, base = time.monotonic(), self._base_seconds(wish.assignment)

        def advance(what: str, done: int, total: int) -> None:
            self.progress(f"verifying {number}: {what}", done, total)

        try:
            figures = verify(
                self.model,
                recipe,
                folder,
                self.texts,
                windows=self.windows,
                native=self.native,
                progress=advance,
            )
            record |= figures
            record["time_factor"] = (time.monotonic() - started) / base
        except GossamerError as error:
            record["error"] = str(error)
            self.notes.append(f"'{wish.name}' could not be verified: {error}")
        self.state.put("verified", _digest(wish.assignment), record)
        self.state.save()
        if "size_bytes" in record:
            self._learn()
            if keep and self.chosen() is record:
                discard(self.out / KEPT)
                folder.rename(self.out / KEPT)
        discard(folder)

    # ---- what is known ------------------------------------------------------------------------------------

    def recipe(self, name: str, assignment: Assignment) -> Recipe:
        """The recipe of an assignment."""
        description = f"Found by gossamer search for {self.source.path.name}: {name}."
        return recipe_of(assignment, self.costs.embedding, self.costs.head, self.calibration, description)

    def predicted(self, assignment: Assignment) -> dict[str, float | None]:
        """What is expected of an assignment."""
        matrices = sum(self.costs.bytes(*pair) for pair in assignment.items())
        timed = self.budget.key == "latency"
        return {
            "size_bytes": matrices + (self.costs.fixed_bytes if timed else self.problem.fixed_cost),
            "latency_ms": self.problem.cost(assignment) if timed else None,
            "perplexity_ratio": ratio_of(self.problem.total_loss(assignment)),
        }

    def dense(self) -> dict[str, Any]:
        """The figures of the dense parent."""
        figures: dict[str, Any] = self.state.section("dense")["figures"]
        return figures

    def ratio(self, record: dict[str, Any]) -> float:
        """The measured perplexity over the dense one's."""
        return float(record["perplexity"]) / float(self.dense()["perplexity"])

    def measured(self) -> list[dict[str, Any]]:
        """The records of what was verified, without failures."""
        return [each for each in self._verified().values() if "perplexity" in each]

    def allowed(self, record: dict[str, Any]) -> bool:
        """True if a verified model is within the budget."""
        return self.budget.allows(record["size_bytes"], record["latency_ms"], self.ratio(record))

    def chosen(self) -> dict[str, Any] | None:
        """The best verified record within the budget, else the one nearest to it; None if nothing was verified."""
        within = [each for each in self.measured() if self.allowed(each)]
        if within:
            aim = "size_bytes" if self.budget.key == "perplexity" else "perplexity"
            return min(within, key=lambda each: each[aim])
        key = {"size": "size_bytes", "latency": "latency_ms", "perplexity": "perplexity"}[self.budget.key]
        return min(self.measured(), key=lambda each: each[key], default=None)


def _digest(assignment: Assignment) -> str:
    text = json.dumps(assignment, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
