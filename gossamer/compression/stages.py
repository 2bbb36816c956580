"""The linears of one block, stage by stage: observe, align, apply the steps, train, pack.

What runs later in a block sees the earlier ones done where the recipe aligns with the dense model; the linears of a
stage share an input, or are experts. O output features, I input features.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from gossamer.calibration.merge import merged
from gossamer.calibration.observe import BlockOutput, as_it_is, hidden_states, observed
from gossamer.calibration.pairs import Seen, observe_pairs, parts, residual_after
from gossamer.calibration.replay import Replay
from gossamer.calibration.statistics import Moments, Statistic, to_collect
from gossamer.compression.job import Job
from gossamer.compression.layer import LayerReport, LayerWork
from gossamer.compression.phase_clock import OBSERVE, SOLVE, TRAIN, WRITE
from gossamer.compression.selection import Steps
from gossamer.compression.state import RunState
from gossamer.errors import CalibrationError
from gossamer.formats.choose import pack
from gossamer.formats.low_rank import residual_mask
from gossamer.methods.reconstruct import Reconstruct, Reconstructed, reconstruct, vectors_of
from gossamer.methods.solve.error import check_packed
from gossamer.methods.solve.settings import Evidence
from gossamer.recipe.table import METHODS


@dataclass
class BlockWork:
    """One block while it is compressed."""

    name: str
    number: int
    layers: dict[str, LayerWork]
    """Its linears that are not packed yet, by name."""
    wanted: list[BlockOutput] | None
    """What the dense block returned for each batch; None if nobody asks."""
    seen: list[Seen] | None
    """What the dense block showed of its linears; None if that was too much to keep."""
    stages: list[list[str]] = field(default_factory=list)
    """All its linears in the order in which they run, where each is to see the earlier ones compressed."""
    replay: Replay | None = None
    """What its finished parts returned; None where that may still change."""
    gains: list[Reconstructed] = field(default_factory=list)
    """What each training gave."""
    settled: list[nn.Parameter] = field(default_factory=list)
    """Norms and biases that the phase at hand has trained."""


@dataclass
class Phase:
    """Steps of the linears of a block, up to where the block is trained as a whole."""

    linears: dict[str, Steps] = field(default_factory=dict)
    trained: dict[Reconstruct, list[str]] = field(default_factory=dict)
    last: list[str] = field(default_factory=list)
    """Linears that are done after this phase."""


def phases(linears: Mapping[str, Steps]) -> list[Phase]:
    """Cut the steps of a block's linears where it is reconstructed."""
    found: list[Phase] = []
    for name, steps in linears.items():
        number, own = 0, list(steps)
        while own:
            if number == len(found):
                found.append(Phase())
            phase = found[number]
            cut = next((at for at, step in enumerate(own) if step.trains), None)
            phase.linears[name] = tuple(own[:cut])
            if cut is not None:
                settings = own[cut].settings
                assert isinstance(settings, Reconstruct)
                phase.trained.setdefault(settings, []).append(name)
            own = [] if cut is None else own[cut + 1 :]
            if not own:
                phase.last.append(name)
            number += 1
    return found


def apply_phase(job: Job, state: RunState, block: BlockWork, phase: Phase) -> None:
    """Apply the steps of each linear, then train the block; what runs later in it sees the earlier ones done."""
    block.settled = []
    block.replay = _replay(job, block, phase)
    apart = [settings for settings in phase.trained if settings.apart]
    whole = [settings for settings in phase.trained if not settings.apart]
    for part, until in _parts(job, block, bool(apart)):
        own = {name: steps for name, steps in phase.linears.items() if name in part}
        for stage in _stages(job, block, own):
            with job.clock.phase(OBSERVE):
                evidence = observe(job, block, {name: own[name] for name in stage})
            with job.clock.phase(SOLVE):
                _align(block, evidence)
            for name in stage:
                apply_steps(job, block.layers[name], own[name], evidence.get(name))
                if name in phase.last and not phase.trained:
                    with job.clock.phase(WRITE):
                        pack_layer(job, state, block.layers.pop(name), block.number)
            if block.replay is not None:
                block.replay.finish(stage)
        for settings in apart:
            _train(job, block, settings, [name for name in phase.trained[settings] if name in part], until)
    for settings in whole:
        _train(job, block, settings, phase.trained[settings], None)
    if phase.trained:
        block.replay = None
    for name in phase.last if phase.trained else ():
        pack_layer(job, state, block.layers.pop(name), block.number)


def _parts(job: Job, block: BlockWork, apart: bool) -> list[tuple[list[str], str | None]]:
    """The linears that are trained apart, and where each part ends."""
    every = list(job.architecture.linears(block.name))
    return parts(job.runner, block.name, every) if apart else [(every, None)]


def _replay(job: Job, block: BlockWork, phase: Phase) -> Replay | None:
    """For the stages of a phase; None where it has one only, or trains what lies between them."""
    if not block.stages or any(settings.apart for settings in phase.trained):
        return None
    replay = Replay(job.model, block.name, [name for stage in block.stages for name in stage])
    replay.finish([name for stage in block.stages for name in stage if name not in phase.linears])
    return replay


def _stages(job: Job, block: BlockWork, linears: Mapping[str, Steps]) -> list[list[str]]:
    """The linears to be compressed together; one after the other where each is to see the earlier ones."""
    if not block.stages or not wanted_of(job, linears):
        return [list(linears)] if linears else []
    own = [[name for name in stage if name in linears] for stage in block.stages]
    return [stage for stage in own if stage]


def wanted_of(job: Job, linears: Mapping[str, Steps]) -> dict[str, tuple[nn.Module, type[Statistic]]]:
    """The module and the one statistic that serves all its steps, for those that need any."""
    wanted = {}
    for name, steps in linears.items():
        classes = to_collect(step.needs for step in steps)
        if classes:
            wanted[name] = (job.model.get_submodule(name), classes[0])
    return wanted


def observe(job: Job, block: BlockWork, linears: Mapping[str, Steps]) -> Mapping[str, Statistic]:
    """Run the block once, and return the statistics of the linears that ask for one, over all processes.

    Raises CalibrationError for a linear that no token reached.
    """
    wanted = wanted_of(job, linears)
    if not wanted:
        return {}
    statistics: Mapping[str, Statistic]
    if job.aligns and job.dense is not None:
        every = job.architecture.linears(block.name)
        within = as_it_is if block.replay is None else block.replay.running
        statistics = observe_pairs(job.runner, job.dense, block.name, every, list(wanted), block.seen, within)
    else:
        with observed(wanted) as statistics:
            job.runner.run(block.name)
    statistics = merged(job.processes, statistics, job.device)
    for linear in wanted:
        if linear not in statistics:
            raise CalibrationError(
                f"{linear}: no calibration token ever reached it. Give more text, or `skip` it."
            )
    return statistics


def _align(block: BlockWork, statistics: Mapping[str, Statistic]) -> None:
    """Fit the linears to the dense model's outputs where these are known, which are then forgotten."""
    moments = {name: each for name, each in statistics.items() if isinstance(each, Moments)}
    for name, each in moments.items():
        with block.layers[name].working():
            block.layers[name].align(each)
    for each in moments.values():
        each.forget_dense()


def apply_steps(job: Job, layer: LayerWork, steps: Steps, statistic: Statistic | None) -> None:
    """Apply the steps to one matrix and put the result in its place."""
    with job.clock.phase(SOLVE), layer.working():
        layer.see(statistic)
        by_weight = not layer.steps
        for step in steps:
            given: Evidence | None = job.thresholds.get(step, statistic if step.needs is not None else None)
            weight_O = job.sharing.weights(layer.name, step)
            if weight_O is not None:
                weight_O = weight_O.to(job.device)
                layer.weight = layer.weight.weighed(weight_O.sqrt())
            apply = METHODS[step.method].apply
            by_weight = by_weight and step.prunes_by_weight
            if by_weight:  # by the weights that the model came with, not by what aligning made of them
                mask_OI = apply(layer.as_given(), given, step.settings, layer.notes).mask_OI
                layer.weight = layer.weight if mask_OI is None else layer.weight.pruned(mask_OI)
            else:
                layer.weight = apply(layer.weight, given, step.settings, layer.notes)
            if weight_O is not None:
                layer.weight = layer.weight.weighed(weight_O.rsqrt())
            layer.report_step(step.method)
    layer.put(job.model)


def _train(job: Job, block: BlockWork, settings: Reconstruct, names: list[str], until: str | None) -> None:
    """Train linears of a block, norms and biases but for the settled ones, which those trained here then join."""
    if not names:
        return
    assert block.wanted is not None
    assert job.dense is not None
    job.progress(f"reconstructing {block.name}", 0, 1)
    layers = [block.layers[name] for name in names]
    weights = {layer.matrix.holder(job.model): layer.stored_mask() for layer in layers}
    vectors = vectors_of(job.model.get_submodule(block.name))
    before = [each.data for each in vectors]
    with job.clock.phase(TRAIN), job.time.training() as seconds:
        if seconds > 0:
            targets = [hidden_states(each) for each in block.wanted]
            if until is not None:
                with torch.inference_mode():
                    numbers = range(len(targets))
                    targets = [residual_after(job.dense, block.name, until, number) for number in numbers]
            block.gains.append(
                reconstruct(
                    job.runner, block.name, targets, weights, settings,
                    until=until, but=block.settled, seconds=seconds,
                )
            )  # fmt: skip
    pairs = zip(vectors, before, strict=True)
    block.settled += [each for each, value in pairs if not torch.equal(each.data, value)]
    for layer in layers:
        layer.take(job.model)


def pack_layer(job: Job, state: RunState, layer: LayerWork, block: int | None) -> None:
    """Hand the packed form of one matrix to the writer, and put the values that it has in its place."""
    started, name, weight = time.monotonic(), layer.name, layer.weight
    dtype = job.stored_dtypes[layer.matrix.parameter]
    packed = pack(weight.weight_OI, weight.mask_OI, weight.quantized, dtype, weight.factors)
    weight_OI = job.processes.same(packed.unpack())
    check_packed(name, weight, weight_OI)
    layer.put(job.model, weight_OI)
    state.packed[name] = packed.meta()
    job.writer.add({f"{name}.{key}": tensor for key, tensor in packed.tensors().items()})
    state.written.add(layer.matrix.parameter)
    state.reports.append(
        LayerReport(
            name=name,
            block=block,
            kind=name.rpartition(".")[2],
            shape=packed.shape,
            sparsity=1.0 - int(residual_mask(packed).sum()) / weight_OI.numel(),
            bits=weight.quantized.bits if weight.quantized is not None else None,
            rank=weight.factors.rank if weight.factors is not None else None,
            format=packed.format,
            bytes=packed.num_bytes,
            dense_bytes=2 * weight_OI.numel(),
            relative_error=layer.error(weight_OI),
            seconds=layer.seconds + time.monotonic() - started,
            notes=layer.notes,
            steps=layer.steps,
        )
    )
