"""Sparsities that are shared out over all layers: pruning with `scope: global`, but for magnitude's own.

A dense run forwards gives the Gram matrix of every linear's inputs, one backwards the Fisher information of its
outputs; what each weight costs follows (methods/saliency.py). A few windows of text are enough for that. Where the
budget goes is decided once, on the dense model; the steps then see what they would see anyway.

O output features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gossamer.calibration.batches import model_batches
from gossamer.calibration.gradients import output_gradients
from gossamer.calibration.observe import BlockRunner, observed
from gossamer.calibration.ranks import Ranks
from gossamer.calibration.statistics import Gram, Statistic
from gossamer.calibration_text import Progress
from gossamer.checkpoint.source import Source
from gossamer.errors import RecipeError
from gossamer.methods.low_rank import LowRankTarget
from gossamer.methods.saliency import SharedSparsity, input_cost, output_importance
from gossamer.plan import Steps
from gossamer.recipe import Step
from gossamer.training.reconstruct import block_weight

PROBE_TOKENS = 4096
"""Of the calibration text; each rank looks at one window at least."""


@dataclass(frozen=True)
class Shares:
    """What was found for the linears of steps with a global scope that the probe reached."""

    sparsity: dict[str, float]
    importance_O: dict[str, Tensor]
    """What a squared error of each output costs beside the linear's others."""

    def weights(self, name: str, step: Step) -> Tensor | None:
        """How a step is to weigh the outputs of a linear: all alike (None) where it has no part in this."""
        weighs = is_shared(step) and not isinstance(step.settings, LowRankTarget)
        return self.importance_O.get(name) if weighs else None

    def applied(self, linears: Mapping[str, Steps]) -> dict[str, Steps]:
        """Return the steps of all linears, with the sparsity that each was given."""
        chosen = dict(linears)
        for name, sparsity in self.sparsity.items():
            first = chosen[name][0]
            settings = first.settings.model_copy(update={"sparsity": sparsity})
            chosen[name] = (replace(first, settings=settings), *chosen[name][1:])
        return chosen


def shared_out(
    source: Source, linears: Mapping[str, Steps], ids_NL: Tensor, ranks: Ranks, progress: Progress
) -> Shares:
    """Measure and share out the sparsity of each step with a global scope; nothing is measured if there is none.

    RecipeError for a model with more than one stack of blocks.
    """
    steps = {name: own[0] for name, own in linears.items() if is_shared(own[0])}
    if not steps:
        return Shares({}, {})
    stack, *others = source.architecture.stacks
    if others:
        raise RecipeError(
            "scope global follows gradients through one stack of blocks, and this model has an encoder and a decoder. "
            "Use scope layer, or a table of sparsities."
        )
    num_windows = max(PROBE_TOKENS // ids_NL.shape[1], ranks.size, 1)
    windows = [
        batch for ids in ids_NL[:num_windows].split(1) for batch in model_batches(source.model, ids, [])
    ]
    probe = _Probe(source, steps, BlockRunner(source.model, ranks.share(windows)), ranks, progress)
    return probe.measure(stack)


def is_shared(step: Step) -> bool:
    """True if the step's sparsity is one over all its layers, by what their weights cost the model."""
    return getattr(step.settings, "scope", None) == "global" and step.needs is not None


class _Probe:
    """Both passes through the dense model, one block at a time."""

    def __init__(
        self, source: Source, steps: dict[str, Step], runner: BlockRunner, ranks: Ranks, progress: Progress
    ) -> None:
        self.source, self.steps, self.runner, self.ranks, self.progress = (
            source,
            steps,
            runner,
            ranks,
            progress,
        )

    def measure(self, stack: tuple[str, ...]) -> Shares:
        what, total = "finding what each layer is worth", 2 * len(stack)
        cost_I: dict[str, Tensor] = {}
        returned: dict[str, list[Any]] = {}
        for number, block in enumerate(stack):
            self.progress(what, number, total)
            with observed(
                {name: (module, Gram) for name, module in self.modules(block).items()}
            ) as statistics:
                returned[block] = self.runner.run(block)
            cost_I |= self.input_costs(statistics)
            self.runner.finish(block, returned[block], stack)
            self.source.release(block)
        importance_O: dict[str, Tensor] = {}
        shared = {step: SharedSparsity(step.settings.share) for step in self.steps.values()}  # type: ignore[attr-defined]
        backwards = output_gradients(self.runner, stack, returned, self.modules)
        for number, (block, own) in enumerate(backwards):
            self.progress(what, len(stack) + number, total)
            norms = self.ranks.together(own)
            for name in norms.keys() & cost_I.keys():
                fisher_O = norms[name].mean_square()  # type: ignore[attr-defined]
                importance_O[name] = output_importance(fisher_O)
                cost_O1 = (importance_O[name] * fisher_O.mean())[:, None]
                weight_OI = _weight(self.source.model.get_submodule(name))
                cost_OI = weight_OI.square() * cost_O1 * cost_I[name]
                shared[self.steps[name]].add(name, cost_OI)
            self.source.release(block)
        self.progress(what, total, total)
        sparsity: dict[str, float] = {}
        for each in shared.values():
            sparsity |= each.sparsities()
        return Shares(sparsity, importance_O)

    def modules(self, block: str) -> dict[str, nn.Module]:
        """Put a block into the model; return those of its linears that share a sparsity."""
        self.source.model.set_submodule(block, self.source.materialise(block))
        names = (name for name in self.source.architecture.linears(block) if name in self.steps)
        return {name: self.source.model.get_submodule(name) for name in names}

    def input_costs(self, statistics: Mapping[str, Statistic]) -> dict[str, Tensor]:
        """What the inputs of each linear cost; those that share a Gram matrix share the result."""
        found: dict[int, Tensor] = {}
        costs: dict[str, Tensor] = {}
        for name, gram in self.ranks.together(statistics).items():
            if id(gram) not in found:
                found[id(gram)] = input_cost(gram.value(), [])
            costs[name] = found[id(gram)]
        return costs


def _weight(module: nn.Module) -> Tensor:
    weight = block_weight(module).detach()
    return weight.T if isinstance(module, Conv1D) else weight
