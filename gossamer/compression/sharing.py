"""Sparsities and bits that are shared out over all layers: pruning with `scope: global`, GPTQ with `average_bits`.

A dense run forwards and one backwards over a few windows of text give the Fisher information of every weight; what it
costs to remove or to round it follows (methods/allocate/saliency.py). Where the budget goes is decided once, on the
dense model; the steps then see what they would see anyway.

O output features, I input features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

import torch
from torch import Tensor, nn

from gossamer.calibration.batches import model_batches
from gossamer.calibration.gradients import Curvature, curvatures, probe_tokens
from gossamer.calibration.observe import BlockOutput, BlockRunner
from gossamer.checkpoint.source import Source
from gossamer.compression.selection import Steps, pruned_share
from gossamer.distributed.processes import Processes
from gossamer.methods.allocate.saliency import (
    MOST_BITS,
    SharedSparsity,
    output_importance,
    rounding_cost,
    shared_bits,
    shared_windows,
    window_gains,
)
from gossamer.methods.gptq import GPTQ
from gossamer.methods.solve.low_rank import LowRankTarget
from gossamer.methods.solve.pattern import NM, RowWindows
from gossamer.methods.solve.target import PruneTarget
from gossamer.progress import Progress
from gossamer.recipe.recipe import Step

Change = Mapping[str, float | str | None]
"""Settings of a step that a linear gets in place of the recipe's: sparsity, pattern or bits; JSON."""


@dataclass(frozen=True)
class Sharing:
    """What was found for the linears that share something, as far as the probe reached them."""

    changes: dict[str, list[Change]]
    """For each linear what each of its steps was given."""
    importance_O: dict[str, Tensor]
    """What a squared error of each output costs beside the linear's others; on the CPU."""

    def applied(self, linears: Mapping[str, Steps]) -> dict[str, Steps]:
        """Return the steps of all linears with what they were given."""
        return {
            name: tuple(map(_changed, steps, self.changes[name])) if name in self.changes else steps
            for name, steps in linears.items()
        }

    def weights(self, name: str, step: Step) -> Tensor | None:
        """How a step is to weigh the outputs of a linear: all alike (None) where it has no part in this."""
        settings = step.settings
        if not step.shares_sparsity or isinstance(settings, LowRankTarget):
            return None
        assert isinstance(settings, PruneTarget)
        return None if settings.by_row else self.importance_O.get(name)


def shared_out(
    source: Source,
    linears: Mapping[str, Steps],
    ids_NL: Tensor,
    processes: Processes,
    notes: list[str],
    progress: Progress,
) -> Sharing:
    """Measure, and share out what the steps ask for; nothing is measured if they ask for nothing of the kind.

    The blocks run on the device of the text. A model with more than one stack of blocks gets the same for every layer,
    and a note.
    """
    steps = {
        name: own
        for name, own in linears.items()
        if any(step.shares_sparsity or step.shares_bits for step in own)
    }
    if not steps:
        return Sharing({}, {})
    stack, *others = source.architecture.stacks
    if others:
        notes.append(
            "scope global and average_bits follow gradients through one stack of blocks, and this model has an encoder "
            "and a decoder: every layer got the recipe's sparsity and bits"
        )
        return Sharing({}, {})
    hidden = int(source.config.get_text_config().hidden_size)
    num_windows = max(probe_tokens(ids_NL.numel(), len(stack), hidden) // ids_NL.shape[1], processes.count, 1)
    windows = [
        batch for ids in ids_NL[:num_windows].split(1) for batch in model_batches(source.model, ids, [])
    ]
    seeds = processes.part(range(len(windows)))
    runner = BlockRunner(source.model, processes.part(windows))
    probe = _Probe(source, steps, runner, ids_NL.device, processes, notes, progress)
    return probe.measure(stack, seeds)


@dataclass
class _Costs:
    """What it costs the model to prune and to round each linear, gathered from the last block to the first."""

    sizes: dict[str, int] = field(default_factory=dict)
    importance_O: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[Step, SharedSparsity] = field(default_factory=dict)
    windows: dict[Step, dict[str, tuple[Tensor, int]]] = field(default_factory=dict)
    roundings: dict[Step, dict[str, float]] = field(default_factory=dict)
    untouched: list[str] = field(default_factory=list)
    """Linears that no gradient reached."""

    def see(self, name: str, steps: Steps, weight_OI: Tensor, fisher_OI: Tensor, fisher_O: Tensor) -> None:
        if not bool(fisher_O.any()):
            self.untouched.append(name)
            return
        self.sizes[name], self.importance_O[name] = weight_OI.numel(), output_importance(fisher_O).cpu()
        for step in steps:
            if step.shares_sparsity:
                self._see_pruned(name, step, weight_OI.square() * fisher_OI)
            if step.shares_bits:
                assert isinstance(step.settings, GPTQ)
                cost = rounding_cost(weight_OI, step.settings, fisher_OI)
                self.roundings.setdefault(step, {})[name] = cost

    def _see_pruned(self, name: str, step: Step, cost_OI: Tensor) -> None:
        assert isinstance(step.settings, PruneTarget)
        pattern, num_inputs = step.settings.pattern, cost_OI.shape[1]
        if not isinstance(pattern, NM):
            self.weights.setdefault(step, SharedSparsity(step.settings.share)).add(name, cost_OI)
        elif pattern.m <= num_inputs:  # else no window is whole: the layer keeps the recipe's N
            gains_Om = window_gains(cost_OI, pattern.m)
            self.windows.setdefault(step, {})[name] = (gains_Om, num_inputs)

    def sparsities(self) -> dict[Step, dict[str, Change]]:
        """What each step's settings become for each linear, where sparsity is shared out."""
        found: dict[Step, dict[str, Change]] = {}
        for step, shared in self.weights.items():
            found[step] = {name: {"sparsity": share} for name, share in shared.sparsities().items()}
        for step, gains in self.windows.items():
            assert isinstance(step.settings, PruneTarget)
            pattern = step.settings.pattern
            assert isinstance(pattern, NM)
            found[step] = {
                name: {"pattern": str(RowWindows(tuple(n_O), pattern.m)), "sparsity": None}
                for name, n_O in shared_windows(gains, pattern.n, pattern.m).items()
            }
        return found


class _Probe:
    """Both passes through the dense model, one block at a time."""

    def __init__(
        self,
        source: Source,
        steps: dict[str, Steps],
        runner: BlockRunner,
        device: torch.device,
        processes: Processes,
        notes: list[str],
        progress: Progress,
    ) -> None:
        self.source, self.steps, self.runner, self.device = source, steps, runner, device
        self.processes, self.notes, self.progress = processes, notes, progress

    def measure(self, stack: tuple[str, ...], seeds: list[int]) -> Sharing:
        what, total = "finding what each layer is worth", 2 * len(stack)
        returned: dict[str, list[BlockOutput]] = {}
        for number, block in enumerate(stack):
            self.progress(what, number, total)
            self.enter(block)
            returned[block] = self.runner.run(block)
            self.runner.finish(block, returned[block], stack)
            self.source.release(block)
        costs = _Costs()
        for number, (block, own) in enumerate(curvatures(self.runner, stack, returned, self.enter, seeds)):
            self.progress(what, len(stack) + number, total)
            for name in self.linears(block):
                weight_OI = self.source.architecture.matrix(name).get(self.source.model)
                costs.see(name, self.steps[name], weight_OI, *self.together(own.get(name), weight_OI))
            self.source.release(block)
        self.progress(what, total, total)
        if costs.untouched:
            self.notes.append(
                f"{len(costs.untouched)} linears that no gradient reached (such as {costs.untouched[0]}) got the "
                "recipe's sparsity and bits"
            )
        found = costs.sparsities()
        for step, roundings in costs.roundings.items():
            found[step] = {
                name: {"bits": width, "average_bits": None}
                for name, width in self.bits(step, roundings, costs.sizes, found).items()
            }
        changes = {
            name: [found.get(step, {}).get(name, {}) for step in self.steps[name]] for name in costs.sizes
        }
        return Sharing(changes, costs.importance_O)

    def bits(
        self,
        step: Step,
        costs: Mapping[str, float],
        sizes: Mapping[str, int],
        found: Mapping[Step, Mapping[str, Change]],
    ) -> dict[str, int]:
        """Share out bits over the weights that the steps before leave; pruned layers are stored in 4 or 8 of them."""
        settings = step.settings
        assert isinstance(settings, GPTQ)
        assert settings.average_bits is not None
        widths: dict[str, Sequence[int]] = {}
        density: dict[str, float] = {}
        for name in costs:
            before = takewhile(lambda other: other is not step, self.steps[name])
            share = pruned_share(
                tuple(_changed(other, found.get(other, {}).get(name, {})) for other in before)
            )
            widths[name] = (settings.bits, MOST_BITS) if share else range(settings.bits, MOST_BITS + 1)
            density[name] = 1.0 - share
        kept = {name: density[name] * sizes[name] for name in costs}
        rounded = {name: density[name] * cost for name, cost in costs.items()}
        return shared_bits(rounded, kept, widths, settings.average_bits)

    def enter(self, block: str) -> dict[str, nn.Module]:
        """Put a block into the model; return its linears that are asked about."""
        self.source.model.set_submodule(block, self.source.materialise(block).to(self.device))
        return self.linears(block)

    def linears(self, block: str) -> dict[str, nn.Module]:
        names = (name for name in self.source.architecture.linears(block) if name in self.steps)
        return {name: self.source.model.get_submodule(name) for name in names}

    def together(self, own: Curvature | None, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of all processes, of which some may not have reached the linear."""
        if own is None:
            own = Curvature(torch.zeros_like(weight_OI), weight_OI.new_zeros(len(weight_OI)))
        return self.processes.total(own.weight_OI), self.processes.total(own.output_O)


def _changed(step: Step, change: Change) -> Step:
    settings = step.settings.model_dump() | dict(change)
    return replace(step, settings=type(step.settings).model_validate(settings)) if change else step
