"""The verb `recover`: train a compressed folder back towards its parent, and write it in the same formats."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gossamer.checkpoint.source import Source
from gossamer.checkpoint.write.work_folder import WorkFolder
from gossamer.checkpoint.write.writer import FolderWriter, check_target
from gossamer.distributed.processes import Processes
from gossamer.errors import UsageError
from gossamer.evaluation.speed.memory import PeakMemory
from gossamer.progress import Progress, silent
from gossamer.training.effort import operations_of_token, peak_operations
from gossamer.training.enrol import enrol
from gossamer.training.exchange import Exchange
from gossamer.training.lessons.reading import Lessons
from gossamer.training.lessons.teacher import LessonTeacher, check_objective
from gossamer.training.loop import Run, optimizer_of, train
from gossamer.training.mixture import all_weighted
from gossamer.training.moving import Mover
from gossamer.training.opening import open_both
from gossamer.training.own_text import (
    SELF,
    TEMPERATURES,
    OwnText,
    check_asked,
    check_own_text,
    wanted_text,
    write_own_text,
    writes_itself,
)
from gossamer.training.record import Facts, write
from gossamer.training.schedule import Schedule, check_effort
from gossamer.training.settings import TrainingSettings
from gossamer.training.shown import Kind, kind_of
from gossamer.training.state import TrainingState, load, put_back
from gossamer.training.states import States
from gossamer.training.student import Student, optimizer_bytes
from gossamer.training.teacher import DenseTeacher, Teacher
from gossamer.training.text import TrainingText, fitting_length, read_text, shared, text_of_lessons
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
    self_tokens: int | None = None,
    text_out: str | Path | None = None,
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
        text: one or several files, folders or data sets to learn from; the parent answers as they are read. "self"
            is text that the parent writes itself first. "PATH:0.7" and "self:0.3" have weights (training/mixture.py).
        lessons: in place of text, a folder that `teach` wrote: its windows and the answers in it.
        self_tokens: how much the parent writes; default: what so many steps read, or what it writes in a fifth of the
            minutes. text_out: a new file to keep that text in (JSON lines).
        out: the folder to write, with the formats, bytes and zeros of `model`; it appears complete or not at all.
        minutes: what the whole run may take; or steps: how many steps to take.
        settings: what is trained and how.
        overwrite: replace `out` if it is a model folder.
        resume: go on from where a run to the same `out` was stopped, if there was one.
        progress: called as the work goes on, in the first process alone.

    Started by torchrun, the processes share the windows of each step; the first writes, the others get an empty record.

    Raises:
        GossamerError: bad model, parent, text, settings or target; nothing has been written then.
    """
    started = time.monotonic()
    out, settings = Path(out), settings or TrainingSettings()
    texts, own = _texts(text), OwnText(self_tokens, None if text_out is None else Path(text_out))
    check_effort(steps, minutes)
    check_asked(texts, own)
    check_target(out, overwrite)
    student, dense = open_both(model, parent)
    check_meant(kind_of(student.reader.skeleton), texts, lessons, settings)
    check_target(out, overwrite, (*student.reader.weight_files, *dense.reader.weight_files))
    given = _Given(student, dense, texts, own, lessons, settings, minutes, steps)
    with Processes() as processes:
        if processes.index > 0:
            _helped(given, processes, started)
            return Recovered(out, {})
        with (
            PeakMemory() as memory,
            WorkFolder(out, resume, "steps") as work,
            FolderWriter(out, overwrite, work.path) as writer,
        ):
            record = _led(given, processes, started, work, writer, memory, progress)
    return Recovered(out, record)


@dataclass(frozen=True)
class _Given:
    """What a run was given."""

    student: Source
    parent: Source
    texts: list[str | Path]
    own: OwnText
    lessons: str | Path | None
    settings: TrainingSettings
    minutes: float | None
    steps: int | None

    def identity(self, text: TrainingText, lessons: Lessons | None) -> dict[str, Any]:
        """What has to be the same for a stopped run to go on."""
        return {
            "gossamer": __version__,
            "model's sha256": self.student.fingerprint(),
            "parent's sha256": self.parent.fingerprint(),
            "text's fingerprint": text.record["fingerprint"],
            "lessons": None if lessons is None else lessons.manifest.identity(),
            **asdict(self.settings),
            "steps": self.steps,
            "minutes": self.minutes,
            "dtype": str(self.settings.dtype),
        }


def _led(
    given: _Given,
    processes: Processes,
    started: float,
    work: WorkFolder,
    writer: FolderWriter,
    memory: PeakMemory,
    progress: Progress,
) -> dict[str, Any]:
    """Do the work of the first process: read text, train, write the folder; return the record of the run."""
    words, answers, notes = _read_or_write(given, work, progress)
    work.begin(given.identity(words, answers))
    states = States(work, processes)
    state = load(states) or TrainingState(started=started)
    state.notes += notes
    student, facts = _trained(given, shared(words, processes), answers, state, states, progress)
    record = write(given.student, student, state, facts, memory, writer, progress)
    writer.commit()
    return record


def _helped(given: _Given, processes: Processes, started: float) -> None:
    """Train beside the first process, which alone reads text and writes."""
    states = States(None, processes)
    state = load(states) or TrainingState(started=started)
    answers = None if given.lessons is None else Lessons(given.lessons)
    _trained(given, shared(None, processes), answers, state, states, silent)


def _read_or_write(
    given: _Given, work: WorkFolder, progress: Progress
) -> tuple[TrainingText, Lessons | None, list[str]]:
    """Return what is learnt from, with notes; text that the parent is to write is written first, or found."""
    if not writes_itself(given.texts) or given.lessons is not None:
        return *read(given.student, given.texts, given.lessons, given.settings, progress), []
    file = given.own.file or work.path / "self.jsonl"
    length = fitting_length(given.student, given.settings.length)
    wanted = wanted_text(given.own, given.settings, length, given.steps, given.minutes)
    notes: list[str] = []
    if work.resumes and file.exists():
        check_own_text(given.parent, file)
    else:
        notes = write_own_text(given.parent, wanted, file, progress)
        for note in notes:
            progress(note, 0, 0)
    found = [
        text if own.text != SELF else str(replace(own, text=file))
        for text, own in zip(given.texts, all_weighted(given.texts), strict=True)
    ]
    words, _ = read(given.student, found, None, given.settings, progress)
    about = {"tokens_asked": wanted.tokens, "seconds_asked": wanted.seconds, "temperatures": TEMPERATURES}
    return replace(words, record={**words.record, "self": about}), None, notes


def _trained(
    given: _Given,
    text: TrainingText,
    lessons: Lessons | None,
    state: TrainingState,
    states: States,
    progress: Progress,
) -> tuple[Student, Facts]:
    """Train; the teacher's memory is free again afterwards."""
    began, settings, processes = time.monotonic(), given.settings, states.processes
    student = enrol(
        given.student,
        settings.train,
        embeddings=settings.embeddings,
        rank=settings.rank,
        seed=settings.seed,
        moves=settings.mask != "fixed",
    )
    if settings.all_reduce != "exact" and processes.count == 1:
        student.notes.append(f"--all-reduce {settings.all_reduce}: a single process sends nothing")
    for note in student.notes:
        progress(note, 0, 0)
    if settings.checkpointing:
        student.checkpoint_blocks(given.student.architecture.blocks)
    native = settings.teacher_engine == "native" and lessons is None
    length = text.ids_NL.shape[1] if native else None
    parent = DenseTeacher(given.parent.path, text.held_out, native=length, dtype=settings.dtype)
    student.lean(parent.model, given.student.architecture)
    teacher: Teacher = parent if lessons is None else LessonTeacher(lessons)
    del parent
    optimizer = optimizer_of(student, settings)
    if state.resumed:
        put_back(state, student, optimizer, states)
    states.go()
    state.reserve = state.reserve or SECONDS_OF_WRITING + time.monotonic() - began
    schedule = Schedule(given.steps, given.minutes, state.seconds)
    exchange = Exchange(processes, student, settings.all_reduce)
    mover = Mover(student, settings.mask)
    train(
        Run(student, teacher, text, settings, schedule, optimizer, states, exchange, mover, progress), state
    )
    facts = Facts(
        given.parent,
        teacher.record(),
        text,
        settings,
        given.minutes,
        given.steps,
        optimizer_bytes(optimizer),
        operations_of_token(student, lessons is None and not native),
        processes.sums(peak_operations(settings.dtype))[0],
        processes.count,
        exchange.record(),
        mover.record(),
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
    texts = _texts(text)
    if lessons is None:
        return read_text(student, texts, settings.length, settings.seed, progress), None
    if texts:
        raise UsageError("--text and --lessons: lessons bring their own text. Give one of them.")
    check_objective(settings.objective)
    if settings.teacher_engine == "native":
        raise UsageError("--teacher-engine native: no teacher runs beside lessons. Leave it out.")
    answers = Lessons(lessons)
    return text_of_lessons(student, answers, settings.length), answers


def check_meant(
    kind: Kind, texts: Sequence[str | Path], lessons: str | Path | None, settings: TrainingSettings
) -> None:
    """Raise UsageError for what only a model that continues a text, or one that has a head, can be asked for."""
    if kind == "causal":
        return
    refused = {
        "--lessons": lessons is not None,
        "--text self": writes_itself(texts),
        "--teacher-engine native": settings.teacher_engine == "native",
        "--labels": kind == "embeddings" and settings.labels > 0,
        "--temperature": kind == "embeddings" and settings.temperature != 1,
    }
    asked = [name for name, is_asked in refused.items() if is_asked]
    if asked:
        what = "an encoder without a head" if kind == "embeddings" else "a masked language model"
        raise UsageError(f"{', '.join(asked)}: has no meaning for {what}. Leave it out.")


def _texts(text: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [text] if isinstance(text, str | Path) else list(text)
