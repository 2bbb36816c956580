"""One block: put it into the model, compress its linears stage by stage, run it, write it, let it go.

O output features, I input features.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from gossamer.calibration.observe import BlockOutput, as_it_is, hidden_states
from gossamer.calibration.pairs import run_dense, stages
from gossamer.compression.ends import write_dense
from gossamer.compression.job import Job, twin
from gossamer.compression.layer import BlockReport, LayerWork
from gossamer.compression.outside import round_as_written
from gossamer.compression.phase_clock import RUN, RUN_DENSE
from gossamer.compression.stages import BlockWork, apply_phase, phases
from gossamer.compression.state import RunState
from gossamer.methods.reconstruct import token_errors


def compress_block(job: Job, state: RunState, name: str, stack: Sequence[str]) -> None:
    """Compress the block `name` of `stack`: its linears are packed and written, and the next block sees its outputs.

    Raises:
        CalibrationError, RecipeError, CheckpointError: a linear cannot be compressed; the message names it.
    """
    block = _enter(job, state, name)
    order = list(block.layers)
    first = len(state.reports)
    for phase in phases(job.steps_of(name)):
        apply_phase(job, state, block, phase)
    state.reports[first:] = sorted(state.reports[first:], key=lambda report: order.index(report.name))
    round_as_written(job.model, name, job.stored_dtypes, state.written)
    within = as_it_is if block.replay is None else partial(block.replay.running, keep=False)
    with job.clock.phase(RUN):
        returned = job.runner.run(name, within)
    state.blocks.append(_report(job, block, returned))
    job.runner.finish(name, returned, stack)
    write_dense(job, state, name)
    job.source.release(name)
    if job.dense is not None and block.wanted is not None:
        job.dense.finish(name, block.wanted, stack)
        job.dense.model.set_submodule(name, job.model.get_submodule(name))


def _enter(job: Job, state: RunState, name: str) -> BlockWork:
    """Read the block into the model and, where its outputs are asked for, into the dense one, which runs it."""
    job.model.set_submodule(name, job.materialise(name))
    wanted, seen = None, None
    if job.dense is not None:
        job.dense.model.set_submodule(name, twin(job.model.get_submodule(name)))
        with job.clock.phase(RUN_DENSE):
            wanted, seen = run_dense(job.dense, name, job.architecture.linears(name))
    steps = job.steps_of(name)
    ordered: list[list[str]] = []
    if job.aligns:
        packed = {job.architecture.matrix(linear).parameter for linear in steps}
        round_as_written(job.model, name, job.stored_dtypes, state.written | packed)
        ordered = job.processes.agreed(stages(job.runner, name, job.architecture.linears(name)))
    layers = {linear: LayerWork.of(job.model, job.architecture.matrix(linear)) for linear in steps}
    return BlockWork(name, state.done, layers, wanted, seen, ordered)


def _report(job: Job, block: BlockWork, returned: list[BlockOutput]) -> BlockReport:
    error = None
    if block.wanted is not None:
        error = job.processes.mean(output_errors(returned, block.wanted))
    return BlockReport(block.name, error, tuple(block.gains))


def output_errors(returned: list[BlockOutput], wanted: list[BlockOutput]) -> Tensor:
    """|block(x) - wanted|^2 / |wanted|^2 of every token."""
    pairs = zip(map(hidden_states, returned), map(hidden_states, wanted), strict=True)
    return torch.cat([token_errors(*pair).flatten() for pair in pairs])
