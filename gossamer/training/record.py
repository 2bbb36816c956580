"""What a run of `recover` writes at its end: the folder as it was, with what was trained, and its history."""

import datetime
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from gossamer.calibration.observe import main_output
from gossamer.checkpoint.manifest import MANIFEST_NAME, read_manifest
from gossamer.checkpoint.read.folder import read_json
from gossamer.checkpoint.read.huggingface import FolderReader
from gossamer.checkpoint.source import Source
from gossamer.checkpoint.write.export import dense_config
from gossamer.checkpoint.write.side_files import copy_side_files
from gossamer.checkpoint.write.writer import FolderWriter, disk_errors
from gossamer.errors import RunError
from gossamer.evaluation.reload_check import reload_difference
from gossamer.evaluation.speed.memory import PeakMemory
from gossamer.progress import Progress
from gossamer.training.precision import bfloat16_pays
from gossamer.training.settings import TrainingSettings
from gossamer.training.state import TrainingState
from gossamer.training.student import Student
from gossamer.training.text import TrainingText
from gossamer.version import __version__

RECORD_NAME = "recovery.json"
"""Where a folder that is stored dense, and has no manifest, holds its record."""


@dataclass(frozen=True)
class Facts:
    """What a run was given."""

    parent: Source
    teacher: dict[str, Any]
    text: TrainingText
    settings: TrainingSettings
    minutes: float | None
    steps: int | None
    optimizer_bytes: int
    operations_of_token: int
    peak_operations: float
    processes: int
    all_reduce: dict[str, Any] | None
    """What they sent each other; None for a single one."""


def write(
    source: Source,
    student: Student,
    state: TrainingState,
    facts: Facts,
    memory: PeakMemory,
    writer: FolderWriter,
    progress: Progress,
) -> dict[str, Any]:
    """Write the folder of the student, load it again as a check, and return the record of the run.

    RunError if what was written is not what was trained, or not in the formats of `source`.
    """
    progress("writing", 0, 1)
    ids_BL = facts.text.ids_NL[list(facts.text.held_out[:1])]
    with torch.inference_mode():
        outputs = main_output(student.model(ids_BL, use_cache=False)).float()
    new = student.tensors()
    compressed = source.kind == "gossamer"
    for name, tensor in (_stored(source, new) if compressed else _dense(student, source, new)).items():
        writer.add({name: tensor})
    with disk_errors(writer.out):
        copy_side_files(source, writer.folder)
    writer.add_json("config.json", _config(source))
    writer.finish()
    blocks = source.architecture.blocks
    kind, dtype = type(student.model), None if compressed else torch.float32
    difference = reload_difference(writer.folder, kind, blocks, {"input_ids": ids_BL}, outputs, dtype)
    progress("writing", 1, 1)
    record = record_of(student, state, facts, memory, difference)
    if compressed:
        size = sum(file.stat().st_size for file in writer.folder.rglob("*") if file.is_file())
        writer.add_json(MANIFEST_NAME, _manifest(read_manifest(source.path), record, size))
    else:
        writer.add_json(RECORD_NAME, record)
    return record


def record_of(
    student: Student, state: TrainingState, facts: Facts, memory: PeakMemory, difference: float
) -> dict[str, Any]:
    """Return what was done and what came of it, ready for JSON."""
    before, after = state.curve[0], min(state.curve, key=lambda point: point.kl)
    training = max(state.curve[-1].seconds - state.begun, 1e-9)
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gossamer_version": __version__,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parent": {"name": facts.parent.path.name, "sha256": facts.parent.fingerprint()},
        "teacher": facts.teacher,
        "text": facts.text.record,
        "settings": {**asdict(facts.settings), "learning_rate": facts.settings.rate},
        "minutes_given": facts.minutes,
        "steps_given": facts.steps,
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": state.seconds(),
        "tokens_per_s": state.curve[-1].tokens / training,
        "peak_operations_per_s": facts.peak_operations,
        "share_of_peak": state.curve[-1].tokens
        / training
        * facts.operations_of_token
        / facts.peak_operations,
        "held_out_kl": {"before": before.kl, "after": after.kl},
        "held_out_perplexity": {"before": before.perplexity, "after": after.perplexity},
        "best_step": state.best_step,
        "curve": [asdict(point) for point in state.curve],
        "kept_weights": student.num_kept(),
        "removed_weights": student.num_removed(),
        "optimizer_bytes": facts.optimizer_bytes,
        "undone": state.undone,
        "resumed": state.resumed,
        "threads": torch.get_num_threads(),
        "processes": facts.processes,
        "all_reduce": facts.all_reduce,
        "precision": "bfloat16" if bfloat16_pays() else "float32",
        "peak_memory_bytes": memory.peak_anonymous_bytes,
        "peak_resident_bytes": memory.peak_resident_bytes,
        "reload_max_difference": difference,
        "notes": [*student.notes, *state.notes],
    }


def _manifest(old: dict[str, Any], record: dict[str, Any], size_bytes: int) -> dict[str, Any]:
    """Return the manifest of a folder whose weights were trained: what it was measured at holds no more."""
    size = old.get("size")
    return {
        **old,
        "created": record["created"],
        "size": {**(size if isinstance(size, dict) else {}), "total_bytes": size_bytes},
        "reload_max_difference": record["reload_max_difference"],
        "measured": {},
        "recovery": [*old.get("recovery", []), record],
    }


def _stored(source: Source, new: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return every tensor of a compressed folder, those that were trained anew; RunError if their form is another."""
    tensors: dict[str, Tensor] = {}
    for file in source.reader.weight_files:
        with safe_open(file, "pt") as content:
            for name in content.keys():  # noqa: SIM118 - no mapping
                tensors[name] = content.get_tensor(name)
    for name, tensor in new.items():
        old = tensors.get(name)
        if old is None or old.shape != tensor.shape or old.dtype != tensor.dtype:
            raise RunError(
                f"{name}: was trained, but is not stored so in {source.path}. Nothing was written. This is a defect of "
                "Gossamer: please report it."
            )
    return {**tensors, **new}


def _dense(student: Student, source: Source, new: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return every tensor of a model that is stored dense, in the types that it is stored in."""
    copies = {copy for copy, _original in source.architecture.tied}
    tensors: dict[str, Tensor] = {}
    for name, tensor in source.model.state_dict().items():
        if name not in copies:
            tensors[name] = new.get(name, tensor)
    assert set(new) <= set(tensors), set(new) - set(tensors)
    return tensors


def _config(source: Source) -> dict[str, Any]:
    if source.kind == "gossamer":
        return read_json(source.path / "config.json", "")
    assert isinstance(source.reader, FolderReader)
    stored = str(next(source.model.parameters()).dtype).removeprefix("torch.")
    return dict(json.loads(json.dumps(dense_config(source, stored), default=str)))
