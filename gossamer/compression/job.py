"""What a run of `compress` works with, from its first block to its last: models, text, steps, places to write to.

What it has reached is not here but in `RunState` (compression/state.py).
"""

import time
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gossamer.calibration.batches import model_batches
from gossamer.calibration.observe import BlockRunner
from gossamer.calibration.statistics import Gram
from gossamer.checkpoint.architecture import Architecture
from gossamer.checkpoint.source import Source
from gossamer.checkpoint.write.writer import FolderWriter
from gossamer.compression.outside import prepare_outside
from gossamer.compression.phase_clock import READ, SHARE_OUT, PhaseClock
from gossamer.compression.preview import stored_dtypes
from gossamer.compression.selection import Selection, Steps, select
from gossamer.compression.sharing import Sharing, shared_out
from gossamer.compression.state import RunState
from gossamer.compression.thresholds import global_thresholds
from gossamer.compression.time_budget import TimeBudget
from gossamer.compression.windows import SELF_WRITTEN, CalibrationText, calibration_samples, fitting_length
from gossamer.distributed.processes import Processes
from gossamer.methods.magnitude import GlobalThreshold
from gossamer.progress import Progress
from gossamer.recipe.recipe import Recipe, Step


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    source: Source
    recipe: Recipe
    layers: str | None
    """A glob that narrows the recipe's further."""
    text: str | None
    length_given: bool
    """True if the user named the length of the windows."""
    minutes: float | None
    device: torch.device


@dataclass(frozen=True)
class Job:
    """One run, prepared. Its models, runners and writer work on; what has been reached is in `RunState`."""

    source: Source
    recipe: Recipe
    selection: Selection
    """The steps for every matrix, with what each was given of shared sparsity and bits."""
    processes: Processes
    writer: FolderWriter
    progress: Progress
    device: torch.device
    runner: BlockRunner
    """Runs the model that is compressed."""
    dense: BlockRunner | None
    """Runs the same model as it was; None where nobody asks."""
    aligns: bool
    """Each layer is fitted to the dense model's outputs."""
    calibration: dict[str, Any]
    """Where the windows of text come from; JSON."""
    sharing: Sharing
    thresholds: dict[Step, GlobalThreshold]
    stored_dtypes: dict[str, torch.dtype]
    time: TimeBudget
    clock: PhaseClock

    @property
    def model(self) -> PreTrainedModel:
        """The model that is compressed; its blocks are on the meta device but for the one that is worked on."""
        return self.source.model

    @property
    def architecture(self) -> Architecture:
        return self.source.architecture

    def places(self) -> list[tuple[str, tuple[str, ...]]]:
        """Every block with the stack that it belongs to, in the order in which they run."""
        return [(name, stack) for stack in self.architecture.stacks for name in stack]

    def steps_of(self, block: str) -> dict[str, Steps]:
        """The steps for each linear of a block that gets any."""
        chosen = self.selection.linears
        return {name: chosen[name] for name in self.architecture.linears(block) if name in chosen}

    def materialise(self, name: str) -> nn.Module:
        """Read a module's weights, float32, on the device of the run."""
        with self.clock.phase(READ):
            return self.source.materialise(name).to(self.device)


def prepare(
    request: Request, processes: Processes, writer: FolderWriter, progress: Progress, kept: RunState | None
) -> tuple[Job, RunState]:
    """Read the text, and what lies around the blocks; find what is shared out over all layers.

    `kept` is the state of a stopped run to go on from, which stands for text that the model wrote itself and for what
    was shared out.

    Raises:
        UsageError, RecipeError, DataError, CheckpointError: it cannot be done as asked; nothing was written.
    """
    started = time.monotonic()
    clock = PhaseClock({} if kept is None else kept.phases)
    source, recipe, model = request.source, request.recipe, request.source.model
    selection = select(source, recipe, request.layers)
    model.config.use_cache = False
    notes: list[str] = []
    steps = [step for chosen in selection.linears.values() for step in chosen]
    reads_text = any(step.needs_text for step in (*steps, *selection.head))
    dtypes = stored_dtypes(source)
    with clock.phase(READ):
        ids_NL, record = _text(request, reads_text, progress, notes, kept)
        prepare_outside(source, selection, dtypes, request.device)
    linears = selection.linears
    with clock.phase(SHARE_OUT):
        sharing = (
            kept.sharing
            if kept
            else shared_out(source, linears, ids_NL.to(request.device), processes, notes, progress)
        )
        thresholds = global_thresholds(source, linears, progress)
    batches = [
        {key: value.to(request.device) for key, value in batch.items()}
        for batch in processes.part(model_batches(model, ids_NL, notes))
    ]
    aligns = recipe.calibration.align and any(step.needs is Gram for step in steps)
    state = kept or RunState(ids_NL, record, sharing, notes, started=started)
    state.written |= {copy for copy, _ in source.architecture.tied}
    job = Job(
        source=source,
        recipe=recipe,
        selection=replace(selection, linears=sharing.applied(linears)),
        processes=processes,
        writer=writer,
        progress=progress,
        device=request.device,
        runner=BlockRunner(model, batches),
        dense=BlockRunner(twin(model), batches) if aligns or any(step.trains for step in steps) else None,
        aligns=aligns,
        calibration=record,
        sharing=sharing,
        thresholds=thresholds,
        stored_dtypes=dtypes,
        time=TimeBudget(
            request.minutes and 60 * request.minutes, len(source.architecture.blocks), state.seconds
        ),
        clock=clock,
    )
    return job, state


def _text(
    request: Request, reads_text: bool, progress: Progress, notes: list[str], kept: RunState | None
) -> CalibrationText:
    """The windows that the model will see; where nothing is to be observed, one short random one."""
    model = request.source.model
    if not reads_text:
        if request.text is not None:
            notes.append("--text was not read: no step of the recipe goes by the inputs of a layer")
        vocabulary = model.config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(0)
        ids_NL: Tensor = torch.randint(vocabulary, (1, 16), generator=generator, device=generator.device)
        return ids_NL, {"source": None}
    recipe = fitting_length(request.recipe, model, request.length_given, notes)
    if kept is not None and request.text is None and kept.calibration["source"] == SELF_WRITTEN:
        return kept.ids_NL, kept.calibration
    return calibration_samples(request.source, recipe, request.text, progress, notes)


def twin(module: nn.Module) -> nn.Module:
    """A copy with parameters of its own, whose values are shared until one of the two gets others."""
    shared: dict[int, Tensor] = {id(buffer): buffer for buffer in module.buffers()}
    shared |= {id(each): nn.Parameter(each.data, each.requires_grad) for each in module.parameters()}
    return deepcopy(module, shared)
