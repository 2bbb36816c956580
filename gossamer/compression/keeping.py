"""Keeping what a run has reached after each block, and how a later process goes on from it.

Besides what has been written, the next block needs what the last one returned, in both models, for every batch; the
rest is the record of what was done, and is small. The embeddings are taken back from their packed form.
"""

import time
from dataclasses import asdict

import torch
import transformers
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gossamer.calibration.observe import BlockOutput, BlockRunner
from gossamer.calibration.statistics import CPU
from gossamer.checkpoint.write.work_folder import WorkFolder
from gossamer.compression.job import Job
from gossamer.compression.layer import BlockReport, LayerReport
from gossamer.compression.sharing import Sharing
from gossamer.compression.state import RunState

SHARE_OF_TIME = 0.03
FREE_SECONDS = 10.0
"""Keeping states may take so long in all, and beyond that its share of a run's time: else blocks are passed over."""


def save(job: Job, state: RunState, folder: WorkFolder) -> None:
    """Keep the state of a run between two blocks, unless that has come to take too long."""
    began = time.monotonic()
    spent, last = state.keeping
    if spent + last > max(FREE_SECONDS, SHARE_OF_TIME * state.seconds()):
        return
    record = {
        "done": state.done,
        "total": len(job.architecture.blocks),
        "packed": state.packed,
        "tied": state.tied,
        "written": sorted(state.written),
        "reports": [asdict(report) for report in state.reports],
        "block_reports": [block.to_dict() for block in state.blocks],
        "notes": state.notes,
        "calibration": state.calibration,
        "seconds": state.seconds(),
        "phases": job.clock.seconds(),
        "resumed": state.resumed,
        "surroundings": _surroundings(job),
        "writer": job.writer.keep(),
        "shares": state.sharing.changes,
    }
    values = {
        "ids": state.ids_NL,
        "random": torch.get_rng_state(),
        "importance": state.sharing.importance_O,
        "returned": _returned(job, state, job.runner),
        "dense": None if job.dense is None else _returned(job, state, job.dense),
    }
    folder.save(record, values)
    job.writer.remove_unused()
    last = time.monotonic() - began
    state.keeping = (spent + last, last)


def load(folder: WorkFolder) -> RunState | None:
    """The state of a run that was stopped; None if there was none."""
    record = folder.progress
    if record is None:
        return None
    values = folder.values()
    return RunState(
        ids_NL=values["ids"],
        calibration=record["calibration"],
        sharing=Sharing(record["shares"], values["importance"]),
        notes=record["notes"],
        done=record["done"],
        packed=record["packed"],
        tied=record["tied"],
        written=set(record["written"]),
        reports=[LayerReport.of(each) for each in record["reports"]],
        blocks=[BlockReport.of(each) for each in record["block_reports"]],
        resumed=record["resumed"] + 1,
        seconds_before=record["seconds"],
        phases=record.get("phases", {}),  # of a run that an earlier version kept: all of it is "other"
    )


def resume(job: Job, state: RunState, folder: WorkFolder) -> None:
    """Put writer, models and random numbers where the stopped run had them; UsageError if it saw another text."""
    record = folder.progress
    assert record is not None
    folder.compare("calibration text", state.calibration, job.calibration)
    job.writer.restore(record["writer"])
    state.notes += _changed_surroundings(state.done, record["surroundings"], _surroundings(job))
    values = folder.values()
    for runner, returned in ((job.runner, values["returned"]), (job.dense, values["dense"])):
        for stack, (name, batches) in zip(job.architecture.stacks, returned or (), strict=False):
            assert runner is not None
            runner.finish(name, _on(job.device, batches), stack)
    torch.set_rng_state(values["random"])


def _returned(job: Job, state: RunState, runner: BlockRunner) -> list[tuple[str, list[BlockOutput]]]:
    """Name and outputs, on the CPU, of the last finished block of each stack that was begun."""
    done = {name for name, _ in job.places()[: state.done]}
    last = [[name for name in stack if name in done] for stack in job.architecture.stacks]
    return [(names[-1], _on(CPU, runner.returned(names[-1]))) for names in last if names]


def _on(device: torch.device, values: list[BlockOutput]) -> list[BlockOutput]:
    """The same nesting of values with its tensors on a device; those that are there already are not copied."""
    moved: list[BlockOutput] = tree_map_only(Tensor, lambda tensor: tensor.to(device), values)
    return moved


def _surroundings(job: Job) -> dict[str, object]:
    """What the last bits of a result may depend on."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "device": str(job.device),
    }


def _changed_surroundings(done: int, then: dict[str, object], now: dict[str, object]) -> list[str]:
    changed = [f"{key} {then.get(key)} before, {now[key]} after" for key in now if then.get(key) != now[key]]
    if not changed:
        return []
    return [
        f"stopped after block {done} and resumed in other surroundings ({', '.join(changed)}): the last bits "
        "may differ from those of a run that was not stopped"
    ]
