"""Write down what a teacher would say next behind every token of a text, once, for as many students as there will be.

Several teachers of one vocabulary give the mean of their probabilities. A window of their logits is in memory, and a
shard of what is kept of them.

N windows, L tokens in a window, V entries of the vocabulary.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gossamer.progress import Progress, silent
from gossamer.training.lessons.answers import Answers, Form, encode, mixture
from gossamer.training.lessons.folder import LessonFolder, check_out
from gossamer.training.lessons.result import LessonPlan, Taught
from gossamer.training.lessons.shards import SHARD_TOKENS
from gossamer.training.lessons.task import Asked, Task, Text, prepare
from gossamer.training.lessons.teachers import LogitsOf

TEACHING = "teaching"


def teach(
    model: str | Path,
    text: Text | Sequence[Text],
    out: str | Path,
    *,
    others: Sequence[str | Path] = (),
    length: int | None = None,
    windows: int | None = None,
    k: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    engine: str = "auto",
    activations: str = "float",
    progress: Progress = silent,
) -> Taught:
    """Write the lessons of `model` on `text` to the folder `out`; go on where the same call was stopped.

    Args:
        model: a causal model: compressed folder, dense folder, GGUF file or hub id.
        text: file, folder or data set; or several.
        out: a new folder, or one that the same call began.
        others: more teachers of the same vocabulary: what is written is the mean of all their probabilities.
        length: tokens in a window; 512, or what the teachers have positions for.
        windows: so many windows, drawn at random; default: all of the text.
        k: keep the k likeliest tokens and the mass of the rest; default 50.
        samples: keep so many tokens drawn from the teacher's distribution instead.
        seed: which windows come in which order, and which samples are drawn; 0 to 2^63 - 1.
        engine: "native", "torch", or "auto": native where the family has a plan.
        activations: "float" (exact) or "int8" for packed integer linears.
        progress: called as the work goes on.

    Returns:
        The folder, its size, and the speed. `gossamer.training.lessons.reading.Lessons` reads it.

    Raises:
        UsageError: settings that cannot be meant, teachers that do not fit, or `out` holds something else.
        CheckpointError, DataError: a model or text that cannot be used.
        DiskError: the disk is full; what is complete stays, and the same call goes on.

    Source of the samples: sparse logit sampling, arXiv 2503.16870.
    """
    check_out(out)
    asked = Asked(
        length=length,
        windows=windows,
        k=k,
        samples=samples,
        seed=seed,
        engine=engine,
        activations=activations,
    )
    task = prepare(model, text, others, asked, progress)
    with LessonFolder(out, task.manifest()) as folder:
        for note in task.notes:
            progress(note, 0, 0)
        resumed = folder.manifest.windows_done
        seconds = _give(task, folder, progress)
        folder.finish()
    return _taught(task, folder, resumed, seconds)


def plan_lessons(
    model: str | Path,
    text: Text | Sequence[Text],
    *,
    others: Sequence[str | Path] = (),
    length: int | None = None,
    windows: int | None = None,
    k: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    engine: str = "auto",
    activations: str = "float",
    progress: Progress = silent,
) -> LessonPlan:
    """Return what `teach` would write, and how many bytes; reads the text, but no weights. Arguments as there."""
    asked = Asked(
        length=length,
        windows=windows,
        k=k,
        samples=samples,
        seed=seed,
        engine=engine,
        activations=activations,
    )
    return prepare(model, text, others, asked, progress).plan()


def _taught(task: Task, folder: LessonFolder, resumed: int, seconds: float) -> Taught:
    """`resumed` windows were there already, the others took so many seconds."""
    size, plan = sum(file.stat().st_size for file in folder.folder.iterdir()), task.plan()
    return Taught(
        folder=folder.folder,
        plan=plan,
        size_bytes=size,
        bytes_per_token=size / plan.tokens,
        seconds=folder.manifest.seconds,
        tokens_per_s=(plan.windows - resumed) * plan.length / max(seconds, 1e-9),
        resumed_windows=resumed,
    )


def _give(task: Task, folder: LessonFolder, progress: Progress) -> float:
    """Make the shards that are missing; return the seconds that it took."""
    manifest = folder.manifest
    length, done = manifest.length, manifest.windows_done
    began = time.monotonic()
    models = [teacher.load(length) for teacher in task.teachers] if done < manifest.windows else []
    per_shard = max(1, SHARD_TOKENS // length)
    began_teaching = time.monotonic()
    while done < manifest.windows:
        ids_NL = task.ids_NL[done : done + per_shard]
        rows = []
        for number, row in enumerate(_lessons(models, ids_NL, done, task)):
            rows.append(row)
            progress(TEACHING, (done + number + 1) * length, manifest.windows * length)
        done += len(rows)
        folder.add(_shard(ids_NL, rows, task.form), manifest.seconds + time.monotonic() - began)
    return time.monotonic() - began_teaching


def _lessons(models: Sequence[LogitsOf], ids_NL: Tensor, first: int, task: Task) -> Iterator[Answers]:
    """Yield the arrays of the lessons on each window; `first` is the number of the first."""
    where = " and ".join(str(teacher.path) for teacher in task.teachers)
    for number, ids_L in enumerate(ids_NL, start=first):
        generator = torch.Generator().manual_seed((task.seed + 0x9E3779B97F4A7C15 * (number + 1)) % 2**63)
        log_probs = mixture([model(ids_L) for model in models], where)
        parts = [encode(chunk_TV, task.form, generator) for chunk_TV in log_probs]
        yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _shard(ids_NL: Tensor, rows: list[Answers], form: Form) -> Answers:
    ids = ids_NL.numpy().astype(form.id_type)
    return {"ids": ids, **{name: np.stack([row[name] for row in rows]) for name in rows[0]}}
