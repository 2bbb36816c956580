"""The verb `recover`: train a compressed folder back towards its parent, and write it in the same formats."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gossamer.checkpoint.source import Source
from gossamer.checkpoint.write.work_folder import WorkFolder
from gossamer.checkpoint.write.writer import FolderWriter, check_target
from gossamer.errors import UsageError
from gossamer.evaluation.speed.memory import PeakMemory
from gossamer.progress import Progress, silent
from gossamer.training.effort import operations_of_token, peak_operations
from gossamer.training.enrol import enrol
from gossamer.training.lessons.reading import Lessons
from gossamer.training.lessons.teacher import LessonTeacher, check_objective
from gossamer.training.loop import Run, optimizer_of, train
from gossamer.training.opening import open_both
from gossamer.training.precision import bfloat16_pays
from gossamer.training.record import Facts, write
from gossamer.training.schedule import Schedule, check_effort
from gossamer.training.settings import TrainingSettings
from gossamer.training.state import TrainingState, load, put_back
from gossamer.training.student import Student, optimizer_bytes
from gossamer.training.teacher import DenseTeacher, Teacher
from gossamer.training.text import TrainingText, read_text, text_of_lessons
from gossamer.version import __version__

SECONDS_OF_WRITING = 2.0
"""At the least; and as long as reading the student took."""


@dataclass(frozen=True)
class Recovered:
    """What `recover` gives back: the folder it wrote, and the record that stands in its manifest under `recovery`."""

    folder: Path
    record: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {"folder": str(self.folder), **self.record}


def recover(
    model: str | Path,
    *,
    parent: str | Path,
    out: str | Path,
    text: str | Path | Sequence[str | Path] = (),
    lessons: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    settings: TrainingSettings | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = silent,
) -> Recovered:
    """Train what `model` has kept towards the predictions of `parent`, and write the folder `out`.

    Args:
        model: a folder that `compress` wrote; or a dense safetensors folder, whose zeros are kept if it was pruned.
        parent: the dense model that it was made of.
        text: one or several files, folders or data sets to learn from; the parent answers as they are read.
        lessons: in place of text, a folder that `teach` wrote: its windows and the answers in it.
        out: the folder to write, with the formats, bytes and zeros of `model`; it appears complete or not at all.
        minutes: what the whole run may take; or steps: how many steps to take.
        settings: what is trained and how.
        overwrite: replace `out` if it is a model folder.
        resume: go on from where a run to the same `out` was stopped, if there was one.
        progress: called as the work goes on.

    Raises:
        GossamerError: bad model, parent, text, settings or target; nothing has been written then.
    """
    started = time.monotonic()
    out, settings = Path(out), settings or TrainingSettings()
    check_effort(steps, minutes)
    check_target(out, overwrite)
    student_source, parent_source = open_both(model, parent)
    check_target(out, overwrite, (*student_source.reader.weight_files, *parent_source.reader.weight_files))
    words, answers = read(student_source, text, lessons, settings, progress)
    given = _Given(student_source, parent_source, words, answers, settings, minutes, steps)
    with (
        PeakMemory() as memory,
        WorkFolder(out, resume, "steps") as work,
        FolderWriter(out, overwrite, work.path) as writer,
    ):
        work.begin(given.identity())
        state = load(work) or TrainingState(started=started)
        student, facts = _trained(given, state, work, progress)
        record = write(student_source, student, state, facts, memory, writer, progress)
        writer.commit()
    return Recovered(out, record)


@dataclass(frozen=True)
class _Given:
    """What a run was given."""

    student: Source
    parent: Source
    text: TrainingText
    lessons: Lessons | None
    settings: TrainingSettings
    minutes: float | None
    steps: int | None

    def identity(self) -> dict[str, Any]:
        """What has to be the same for a stopped run to go on."""
        return {
            "gossamer": __version__,
            "model's sha256": self.student.fingerprint(),
            "parent's sha256": self.parent.fingerprint(),
            "text's fingerprint": self.text.record["fingerprint"],
            "lessons": None if self.lessons is None else self.lessons.manifest.identity(),
            **asdict(self.settings),
            "steps": self.steps,
            "minutes": self.minutes,
            "bfloat16": bfloat16_pays(),
        }


def _trained(
    given: _Given, state: TrainingState, work: WorkFolder, progress: Progress
) -> tuple[Student, Facts]:
    """Train; the teacher's memory is free again afterwards."""
    began, settings = time.monotonic(), given.settings
    student = enrol(
        given.student, settings.train, embeddings=settings.embeddings, rank=settings.rank, seed=settings.seed
    )
    for note in student.notes:
        progress(note, 0, 0)
    if settings.checkpointing:
        student.checkpoint_blocks(given.student.architecture.blocks)
    parent = DenseTeacher(given.parent.path, given.text.held_out)
    student.lean(parent.model, given.student.architecture)
    teacher: Teacher = parent if given.lessons is None else LessonTeacher(given.lessons)
    del parent
    optimizer = optimizer_of(student, settings)
    if state.resumed:
        put_back(state, student, optimizer, work)
    work.go()
    state.reserve = state.reserve or SECONDS_OF_WRITING + time.monotonic() - began
    schedule = Schedule(given.steps, given.minutes, state.seconds)
    train(Run(student, teacher, given.text, settings, schedule, optimizer, work, progress), state)
    facts = Facts(
        given.parent,
        teacher.record(),
        given.text,
        settings,
        given.minutes,
        given.steps,
        optimizer_bytes(optimizer),
        operations_of_token(student, given.lessons is None),
        peak_operations(),
    )
    return student, facts


def read(
    student: Source,
    text: str | Path | Sequence[str | Path],
    lessons: str | Path | None,
    settings: TrainingSettings,
    progress: Progress,
) -> tuple[TrainingText, Lessons | None]:
    """Return the windows to learn from, and the lessons on them if these were given."""
    texts = [text] if isinstance(text, str | Path) else list(text)
    if lessons is None:
        return read_text(student, texts, settings.length, settings.seed, progress), None
    if texts:
        raise UsageError("--text and --lessons: lessons bring their own text. Give one of them.")
    check_objective(settings.objective)
    answers = Lessons(lessons)
    return text_of_lessons(student, answers, settings.length), answers
