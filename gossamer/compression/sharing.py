"""Sparsities and bits that are shared out over all layers: pruning with `scope: global`, GPTQ with `average_bits`.

A dense run forwards and one backwards over a few windows of text give the Fisher information of every weight; what it
costs to remove or to round it follows (methods/allocate/saliency.py). Where the budget goes is decided once, on the
dense model; the steps then see what they would see anyway.

O output features, I input features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.calibration.batches import model_batches
from gossamer.calibration.gradients import Curvature, curvatures, probe_tokens
from gossamer.calibration.observe import BlockRunner
from gossamer.calibration.ranks import Ranks
from gossamer.checkpoint.source import Source
from gossamer.compression.preview import Steps, pruned_share
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
from gossamer.progress import Progress
from gossamer.recipe.recipe import Step


@dataclass(frozen=True)
class Shares:
    """What was found for the linears that share something, as far as the probe reached them."""

    changes: dict[str, list[dict[str, Any]]]
    """For each linear what each of its steps was given: sparsity, pattern or bits; JSON."""
    importance_O: dict[str, Tensor]
    """What a squared error of each output costs beside the linear's others."""

    def applied(self, linears: Mapping[str, Steps]) -> dict[str, Steps]:
        """Return the steps of all linears with what they were given."""
        return {
            name: tuple(map(_changed, steps, self.changes[name])) if name in self.changes else steps
            for name, steps in linears.items()
        }

    def weights(self, name: str, step: Step) -> Tensor | None:
        """How a step is to weigh the outputs of a linear: all alike (None) where it has no part in this."""
        settings = step.settings
        weighs = step.shares_sparsity and not isinstance(settings, LowRankTarget) and not settings.by_row  # type: ignore[attr-defined]
        return self.importance_O.get(name) if weighs else None


def shared_out(
    source: Source,
    linears: Mapping[str, Steps],
    ids_NL: Tensor,
    ranks: Ranks,
    notes: list[str],
    progress: Progress,
) -> Shares:
    """Measure, and share out what the steps ask for; nothing is measured if they ask for nothing of the kind.

    A model with more than one stack of blocks gets the same for every layer, and a note.
    """
    steps = {
        name: own
        for name, own in linears.items()
        if any(step.shares_sparsity or step.shares_bits for step in own)
    }
    if not steps:
        return Shares({}, {})
    stack, *others = source.architecture.stacks
    if others:
        notes.append(
            "scope global and average_bits follow gradients through one stack of blocks, and this model has an encoder "
            "and a decoder: every layer got the recipe's sparsity and bits"
        )
        return Shares({}, {})
    hidden = int(source.config.get_text_config().hidden_size)
    num_windows = max(probe_tokens(ids_NL.numel(), len(stack), hidden) // ids_NL.shape[1], ranks.size, 1)
    windows = [
        batch for ids in ids_NL[:num_windows].split(1) for batch in model_batches(source.model, ids, [])
    ]
    seeds = ranks.share(range(len(windows)))
    probe = _Probe(source, steps, BlockRunner(source.model, ranks.share(windows)), ranks, notes, progress)
    return probe.measure(stack, seeds)


class _Probe:
    """Both passes through the dense model, one block at a time."""

    def __init__(
        self,
        source: Source,
        steps: dict[str, Steps],
        runner: BlockRunner,
        ranks: Ranks,
        notes: list[str],
        progress: Progress,
    ) -> None:
        self.source, self.steps, self.runner = source, steps, runner
        self.ranks, self.notes, self.progress = ranks, notes, progress

    def measure(self, stack: tuple[str, ...], seeds: list[int]) -> Shares:
        what, total = "finding what each layer is worth", 2 * len(stack)
        returned: dict[str, list[Any]] = {}
        for number, block in enumerate(stack):
            self.progress(what, number, total)
            self.enter(block)
            returned[block] = self.runner.run(block)
            self.runner.finish(block, returned[block], stack)
            self.source.release(block)
        importance_O: dict[str, Tensor] = {}
        sparsities: dict[Step, SharedSparsity] = {}
        windows: dict[Step, dict[str, tuple[Tensor, int]]] = {}
        roundings: dict[Step, dict[str, float]] = {}
        sizes: dict[str, int] = {}
        untouched: list[str] = []
        for number, (block, own) in enumerate(curvatures(self.runner, stack, returned, self.enter, seeds)):
            self.progress(what, len(stack) + number, total)
            for name in self.linears(block):
                weight_OI = self.source.architecture.matrix(name).get(self.source.model)
                fisher_OI, fisher_O = self.together(own.get(name), weight_OI)
                if not bool(fisher_O.any()):
                    untouched.append(name)
                    continue
                sizes[name], importance_O[name] = weight_OI.numel(), output_importance(fisher_O)
                for step in self.steps[name]:
                    if step.shares_sparsity:
                        cost_OI = weight_OI.square() * fisher_OI
                        pattern = step.settings.pattern  # type: ignore[attr-defined]
                        if isinstance(pattern, NM) and pattern.m > weight_OI.shape[1]:
                            pass  # no window is whole: the layer keeps the recipe's N
                        elif isinstance(pattern, NM):
                            gains_Om = window_gains(cost_OI, pattern.m)
                            windows.setdefault(step, {})[name] = (gains_Om, weight_OI.shape[1])
                        else:
                            share = step.settings.share  # type: ignore[attr-defined]
                            sparsities.setdefault(step, SharedSparsity(share)).add(name, cost_OI)
                    if step.shares_bits:
                        cost = rounding_cost(weight_OI, step.settings, fisher_OI)  # type: ignore[arg-type]
                        roundings.setdefault(step, {})[name] = cost
            self.source.release(block)
        self.progress(what, total, total)
        if untouched:
            self.notes.append(
                f"{len(untouched)} linears that no gradient reached (such as {untouched[0]}) got the recipe's sparsity "
                "and bits"
            )
        found: dict[Step, dict[str, dict[str, Any]]] = {}
        for step, shared in sparsities.items():
            found[step] = {name: {"sparsity": share} for name, share in shared.sparsities().items()}
        for step, gains in windows.items():
            n, m = step.settings.pattern.n, step.settings.pattern.m  # type: ignore[attr-defined]
            found[step] = {
                name: {"pattern": str(RowWindows(tuple(n_O), m)), "sparsity": None}
                for name, n_O in shared_windows(gains, n, m).items()
            }
        for step, costs in roundings.items():
            found[step] = {
                name: {"bits": width, "average_bits": None}
                for name, width in self.bits(step, costs, sizes, found).items()
            }
        changes = {name: [found.get(step, {}).get(name, {}) for step in self.steps[name]] for name in sizes}
        return Shares(changes, importance_O)

    def bits(
        self,
        step: Step,
        costs: Mapping[str, float],
        sizes: Mapping[str, int],
        found: Mapping[Step, Mapping[str, dict[str, Any]]],
    ) -> dict[str, int]:
        """Share out bits over the weights that the steps before leave; pruned layers are stored in 4 or 8 of them."""
        settings: GPTQ = step.settings  # type: ignore[assignment]
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
        self.source.model.set_submodule(block, self.source.materialise(block))
        return self.linears(block)

    def linears(self, block: str) -> dict[str, nn.Module]:
        names = (name for name in self.source.architecture.linears(block) if name in self.steps)
        return {name: self.source.model.get_submodule(name) for name in names}

    def together(self, own: Curvature | None, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of all ranks, of which some may not have reached the linear."""
        if own is None:
            own = Curvature(torch.zeros_like(weight_OI), torch.zeros(len(weight_OI)))
        return self.ranks.total(own.weight_OI), self.ranks.total(own.output_O)


def _changed(step: Step, change: Mapping[str, Any]) -> Step:
    settings = step.settings.model_dump() | dict(change)
    return replace(step, settings=type(step.settings).model_validate(settings)) if change else step
