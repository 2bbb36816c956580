"""How much the model suffers when one part is compressed: measured where there is time, else by proportion.

A part is one matrix. For small changes the loss of the model is proportional to the relative error of the changed
output, with a factor of its own for each matrix, and the losses of different matrices add up (Malinovskii et al. 2024,
arXiv 2411.17525, theorem 1). So each part is measured at one or two levels (`ANCHORS`), and for the others

    loss(part, level) = KL(part, nearest anchor) * error(part, level) / error(part, nearest anchor)

where the error needs no forward pass. Embedding and head are measured at all their levels. Where even one measurement
for each part is too long, every second (third, ...) block is measured and stands for its neighbours.

Cost: a forward pass through the blocks behind the part for each measurement.
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from gossamer.calibration.statistics import Gram
from gossamer.frontier.levels import (
    ANCHORS,
    GROUP,
    OUTSIDE,
    Level,
    fitting,
    is_sparse,
    level,
    options_for,
    without_rank,
)
from gossamer.frontier.proxy import ProxyModel, cheap_weight, scaled
from gossamer.frontier.state import State
from gossamer.methods.solve.error import relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.progress import Progress
from gossamer.recipe.table import METHODS

SMALLEST_ERROR = 1e-9
SAMPLE_ROWS = 4096
JUDGING = 4
"""Windows by which the methods are judged; the others they are fitted to."""
PARTIAL = 0.6
"""Cost of a forward pass from a middle block on, output head included, as a share of a whole one."""
Clock = Callable[[], float]
"""Seconds that are left for this stage."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """How thoroughly the parts are measured."""

    anchors: tuple[str, ...]
    every: int
    """Each so many blocks."""


def plan_sweep(num_parts: int, forward_seconds: float, seconds: float) -> Sweep:
    """Return the most thorough sweep that is expected to fit into the time."""
    once = num_parts * PARTIAL * forward_seconds
    for anchors in (ANCHORS, ANCHORS[:1]):
        if once * len(anchors) <= seconds:
            return Sweep(anchors, 1)
    return Sweep(ANCHORS[:1], max(1, math.ceil(once / max(seconds, 1e-9))))


def discounts(
    proxy: ProxyModel, names: Iterable[str], ids_NL: Tensor, state: State, progress: Progress
) -> None:
    """Measure what the methods themselves lose, over what their cheap forms lose, and the time they take.

    On the first and the last linear of the middle block, and a sample of rows of the matrices outside. The methods are
    fitted to the later windows and judged by the first `JUDGING` ones: on what they were fitted to, thousands of inputs
    and few tokens would let them look perfect. Writes the sections `discounts` (level -> ratio) and `solve_seconds`
    (level -> seconds for a weight).
    """
    blocks = proxy.parts.blocks
    block = blocks[len(blocks) // 2]
    linears = proxy.parts.linears(block)
    samples = tuple(dict.fromkeys((linears[0], linears[-1])))
    wanted = [name for name in names if name not in state.section("discounts")]
    fitted: dict[str, Gram] = {}
    judged: dict[str, Gram] = {}
    if any(name not in OUTSIDE for name in wanted):
        progress("trying the methods", 0, len(wanted))
        fitted = proxy.grams(block, samples, ids_NL[JUDGING:] if len(ids_NL) > JUDGING else ids_NL)
        judged = proxy.grams(block, samples, ids_NL[:JUDGING])
    for number, name in enumerate(wanted):
        progress("trying the methods", number, len(wanted))
        ratios, seconds, weights = [], 0.0, 0
        for sample in samples if name not in OUTSIDE else (proxy.parts.token_embedding,):
            if sample is None:
                continue
            started = time.perf_counter()
            chosen = level(fitting(name, proxy.weight(sample).shape[1]))
            ratios.append(_discount(proxy, sample, chosen, fitted.get(sample), judged.get(sample)))
            seconds += time.perf_counter() - started
            weights += min(proxy.weight(sample).numel(), SAMPLE_ROWS * proxy.weight(sample).shape[1])
        if ratios:
            state.put("discounts", name, math.exp(sum(map(math.log, ratios)) / len(ratios)))
            state.put("solve_seconds", name, seconds / weights)
    if wanted:
        progress("trying the methods", len(wanted), len(wanted))


def _discount(proxy: ProxyModel, name: str, chosen: Level, fitted: Gram | None, judged: Gram | None) -> float:
    """Error of the method over the error of its cheap form on one matrix, at most 1."""
    dense_OI = proxy.weight(name)[:SAMPLE_ROWS].contiguous()
    layer = LayerWeight(dense_OI)
    for step in chosen.steps:
        statistic = fitted if step.needs is not None else None
        layer = METHODS[step.method].apply(layer, statistic, step.settings, [])
    cheap_OI = cheap_weight(dense_OI, chosen, proxy.norm_I.get(name))
    if judged is None:
        real, cheap = (float((each - dense_OI).square().sum()) for each in (layer.whole_OI, cheap_OI))
    else:
        value_II = judged.value()
        real, cheap = (relative_output_error(dense_OI, each, value_II) for each in (layer.whole_OI, cheap_OI))
    return min(1.0, max(real, SMALLEST_ERROR) / max(cheap, SMALLEST_ERROR))


def discount_of(name: str, state: State) -> float:
    """The discount of a level; of one with other groups or, for sparsities in between, of the anchor if need be."""
    known: dict[str, float] = state.section("discounts")
    if name in known:
        return known[name]
    alike = [each for each in known if re.sub(GROUP, "", each) == re.sub(GROUP, "", name)]
    return known.get(alike[0] if alike else ANCHORS[is_sparse(name)], 1.0)


def sweep_outside(proxy: ProxyModel, names: list[str], state: State, progress: Progress) -> None:
    """Measure embedding and head at each of their levels."""
    wanted = [
        (name, option)
        for name in names
        for option in options_for(OUTSIDE, proxy.weight(name).shape[1])
        if f"{name} {option}" not in state.section("kl")
    ]
    for number, (name, option) in enumerate(wanted):
        progress("sensitivity of embedding and head", number, len(wanted))
        _measure(proxy, name, option, state)
    if wanted:
        progress("sensitivity of embedding and head", len(wanted), len(wanted))


def sweep_blocks(proxy: ProxyModel, sweep: Sweep, state: State, progress: Progress, left: Clock) -> None:
    """Measure the linears of the blocks at the anchors; what time does not allow is left to the neighbours."""
    blocks, parts = proxy.parts.blocks, proxy.parts
    done, late = 0, False
    for stack in parts.stacks:
        for name in stack:
            progress("sensitivity of blocks", done, len(blocks))
            late = late or (left() <= 0 and any(key.startswith(blocks[0]) for key in state.section("kl")))
            if done % sweep.every == 0 and not late:
                for linear in parts.linears(name):
                    for anchor in options_for(sweep.anchors, proxy.weight(linear).shape[1]):
                        if f"{linear} {anchor}" not in state.section("kl"):
                            _measure(proxy, linear, anchor, state)
            proxy.runner.finish(name, proxy.runner.run(name), stack)
            done += 1
    proxy.runner.forget()
    state.save()
    progress("sensitivity of blocks", done, len(blocks))


def _measure(proxy: ProxyModel, name: str, option: str, state: State) -> None:
    chosen = level(option)
    cheap_OI = proxy.cheap(name, chosen)
    weight_OI = scaled(proxy.weight(name), cheap_OI, discount_of(option, state))
    error = proxy.error(name, weight_OI)
    with proxy.replaced({name: weight_OI}):
        state.put("kl", f"{name} {option}", [proxy.kl(), error])


class Losses:
    """The loss that a level of a part adds, from what was measured."""

    def __init__(self, proxy: ProxyModel, state: State) -> None:
        self.proxy, self.state = proxy, state
        self.measured: dict[str, dict[str, tuple[float, float]]] = {}
        for key, (kl, error) in state.section("kl").items():
            name, _, option = key.partition(" ")
            self.measured.setdefault(name, {})[option] = (kl, error)
        self.owners = {
            linear: (number, linear.removeprefix(block + "."))
            for number, block in enumerate(proxy.parts.blocks)
            for linear in proxy.parts.linears(block)
        }

    def prepare(self, options: Mapping[str, Iterable[str]], progress: Progress) -> None:
        """Compute the loss of every matrix at every level that it can have; about a second for a block."""
        for number, (name, own) in enumerate(options.items()):
            progress("errors of the levels", number, len(options))
            for option in own:
                self.of(name, option)
        self.state.save()
        progress("errors of the levels", len(options), len(options))

    def of(self, name: str, option: str) -> float:
        """Return the loss in nats."""
        known = self.measured.get(name, {})
        if option in known:
            return known[option][0]
        error = self._error(name, option)
        known = known or self.measured[self._neighbour(name)]
        nearest = min(known.values(), key=lambda pair: abs(math.log(max(pair[1], SMALLEST_ERROR) / error)))
        return nearest[0] * error / max(nearest[1], SMALLEST_ERROR)

    def _error(self, name: str, option: str) -> float:
        errors, plain = self.state.section("errors"), without_rank(option)
        key = f"{name} {plain}"
        if key not in errors:
            cheap = self.proxy.error(name, self.proxy.cheap(name, level(plain)))
            self.state.put("errors", key, cheap * discount_of(plain, self.state))
        given_back = discount_of(option, self.state) / discount_of(plain, self.state)
        return max(errors[key] * given_back, SMALLEST_ERROR)

    def _neighbour(self, name: str) -> str:
        """The nearest measured linear of the same kind."""
        number, kind = self.owners[name]
        same = [other for other, (_, each) in self.owners.items() if each == kind and other in self.measured]
        assert same, f"no linear like {name} was measured"
        return min(same, key=lambda other: abs(self.owners[other][0] - number))
