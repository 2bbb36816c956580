"""What a run of `recover` writes at its end: the folder as it was, with what was trained, and its history."""

import datetime
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers

from gossamer.checkpoint.source import Source
from gossamer.checkpoint.write.writer import FolderWriter
from gossamer.evaluation.speed.memory import PeakMemory
from gossamer.progress import Progress
from gossamer.training.folder import add_record, write_folder
from gossamer.training.settings import TrainingSettings
from gossamer.training.state import TrainingState
from gossamer.training.student import Student
from gossamer.training.text import TrainingText
from gossamer.version import __version__


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
    moved: dict[str, Any] | None
    """How many zeros have moved; None if none could."""


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
    ids_BL = facts.text.ids_NL[list(facts.text.held_out[:1])]
    difference = write_folder(source, student, student.tensors(), ids_BL, writer, progress)
    record = record_of(student, state, facts, memory, difference)
    add_record(source, writer, "recovery", record)
    return record


def record_of(
    student: Student, state: TrainingState, facts: Facts, memory: PeakMemory, difference: float
) -> dict[str, Any]:
    """Return what was done and what came of it, ready for JSON."""
    before, after = state.curve[0], min(state.curve, key=lambda point: point.kl)
    measure = facts.text.shown.measure
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
        f"held_out_{measure}": {"before": before.kl, "after": after.kl},
        "held_out_perplexity": {"before": before.perplexity, "after": after.perplexity},
        "best_step": state.best_step,
        "curve": [_named(asdict(point), measure) for point in state.curve],
        "kept_weights": student.num_kept(),
        "removed_weights": student.num_removed(),
        "moved": facts.moved,
        "optimizer_bytes": facts.optimizer_bytes,
        "undone": state.undone,
        "resumed": state.resumed,
        "threads": torch.get_num_threads(),
        "processes": facts.processes,
        "all_reduce": facts.all_reduce,
        "precision": str(facts.settings.dtype).removeprefix("torch."),
        "peak_memory_bytes": memory.peak_anonymous_bytes,
        "peak_resident_bytes": memory.peak_resident_bytes,
        "reload_max_difference": difference,
        "notes": [*student.notes, *state.notes],
    }


def _named(point: dict[str, Any], measure: str) -> dict[str, Any]:
    """Return a point of the curve with the measure under its own name."""
    return {measure if key == "kl" else key: value for key, value in point.items()}
