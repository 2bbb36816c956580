"""What a run keeps after each block, and how a later process goes on from it.

Besides what has been written, the next block needs what the last one returned, in both models, for every batch; the
rest is the record of what was done, and is small. The embeddings are taken back from their packed form.
"""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
import transformers

from gossamer.compression.block import LayerReport
from gossamer.compression.sharing import Shares
from gossamer.compression.windows import Calibration
from gossamer.compression.work_folder import WorkFolder
from gossamer.formats.packed import from_tensors, tensor_specs

if TYPE_CHECKING:
    from gossamer.calibration.observe import BlockRunner
    from gossamer.compression.loop import Run

RECORD = ("packed", "tied", "notes", "trained", "block_reports", "calibration")
"""Attributes of a run that JSON holds as they are."""


SHARE_OF_TIME = 0.03
FREE_SECONDS = 10.0
"""Keeping states may take so long in all, and beyond that its share of a run's time: else blocks are passed over."""


def save(run: "Run", folder: WorkFolder) -> None:
    """Keep the state of a run between two blocks, unless that has come to take too long."""
    began = time.monotonic()
    spent, last = run.seconds_keeping
    if spent + last > max(FREE_SECONDS, SHARE_OF_TIME * run.seconds()):
        return
    state = {name: getattr(run, name) for name in RECORD} | {
        "done": run.done,
        "total": len(run.parts.blocks),
        "written": sorted(run.written),
        "reports": [asdict(report) for report in run.reports],
        "seconds": run.seconds(),
        "resumed": run.resumed,
        "surroundings": _surroundings(),
        "writer": run.writer.keep(),
        "shares": run.shares.changes,
    }
    values = {
        "ids": run.ids_NL,
        "random": torch.get_rng_state(),
        "importance": run.shares.importance_O,
        "returned": _returned(run, run.runner),
        "dense": None if run.dense is None else _returned(run, run.dense),
    }
    folder.save(state, values)
    run.writer.remove_unused()
    last = time.monotonic() - began
    run.seconds_keeping = (spent + last, last)


def kept_calibration(folder: WorkFolder) -> Calibration | None:
    """Windows of text and their record, of a run that was stopped."""
    if folder.progress is None:
        return None
    return folder.values()["ids"], folder.progress["calibration"]


def kept_shares(folder: WorkFolder) -> Shares | None:
    """What a run that was stopped has shared out."""
    if folder.progress is None:
        return None
    return Shares(folder.progress["shares"], folder.values()["importance"])


def restore(run: "Run", folder: WorkFolder) -> None:
    """Put a run that has been calibrated where the stopped one was; UsageError if it saw another text."""
    state = folder.progress
    assert state is not None
    folder.compare("calibration text", state["calibration"], run.calibration)
    values = folder.values()
    for name in RECORD:
        setattr(run, name, state[name])
    run.done, run.written = state["done"], set(state["written"])
    run.reports = [LayerReport(**{**each, "shape": tuple(each["shape"])}) for each in state["reports"]]
    run.seconds_before, run.resumed = state["seconds"], state["resumed"] + 1
    run.writer.restore(state["writer"])
    _note_surroundings(run, state["surroundings"])
    _restore_embedding(run)
    for runner, returned in ((run.runner, values["returned"]), (run.dense, values["dense"])):
        for stack, (name, batches) in zip(run.parts.stacks, returned or (), strict=False):
            assert runner is not None
            runner.finish(name, batches, stack)
    torch.set_rng_state(values["random"])


def _returned(run: "Run", runner: "BlockRunner") -> list[Any]:
    """Name and outputs of the last finished block of each stack that was begun."""
    last = [[name for name in stack if name in run.blocks_done()] for stack in run.parts.stacks]
    return [(names[-1], runner.returned(names[-1])) for names in last if names]


def _restore_embedding(run: "Run") -> None:
    """Give the modules that were packed before the blocks the values that were written."""
    blocks = tuple(f"{block}." for block in run.parts.blocks)
    for name, meta in run.packed.items():
        if not name.startswith(blocks):
            stored = run.writer.tensors(f"{name}.{key}" for key in tensor_specs(meta))
            packed = from_tensors(
                meta, {key.removeprefix(f"{name}."): value for key, value in stored.items()}
            )
            run.parts.matrix(name).put(run.model, packed.unpack())
    run.tie()
    run.forget_dense_embedding()


def _surroundings() -> dict[str, Any]:
    """What the last bits of a result may depend on."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    }


def _note_surroundings(run: "Run", then: dict[str, Any]) -> None:
    now = _surroundings()
    changed = [f"{key} {then[key]} before, {now[key]} after" for key in now if then[key] != now[key]]
    if changed:
        run.notes.append(
            f"stopped after block {run.done} and resumed in other surroundings ({', '.join(changed)}): the last bits "
            "may differ from those of a run that was not stopped"
        )
