"""What is to be taught: teachers, windows of text and the form of the answers, all checked before weights are read.

N windows, L tokens in a window.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gossamer.data.deduplicate import deduplicate
from gossamer.data.samples import fingerprint, sample
from gossamer.data.sources import read_documents
from gossamer.data.tokens import TokenStream, tokenize
from gossamer.errors import DataError, UsageError
from gossamer.progress import Progress
from gossamer.training.lessons.answers import SAMPLES, SMALL_VOCABULARY, TOP_K, Form
from gossamer.training.lessons.manifest import Manifest, tokenizer_fingerprint
from gossamer.training.lessons.result import LessonPlan
from gossamer.training.lessons.teachers import Teacher, check_same_language, open_teacher
from gossamer.version import __version__

DEFAULT_LENGTH, DEFAULT_K = 512, 50
LARGEST_SEED = 2**63 - 1
Text = str | Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """How the caller wants it; None: as it is best."""

    length: int | None = None
    windows: int | None = None
    k: int | None = None
    samples: int | None = None
    seed: int = 0
    engine: str = "auto"
    activations: str = "float"


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that is known before the weights are read."""

    """What is taught: everything that is known before the weights are read."""

    teachers: list[Teacher]
    form: Form
    ids_NL: Tensor
    text: list[str]
    start: tuple[int, ...]
    seed: int

    @property
    def notes(self) -> list[str]:
        return [note for teacher in self.teachers for note in teacher.notes]

    def plan(self) -> LessonPlan:
        return LessonPlan(
            teachers=[str(teacher.path) for teacher in self.teachers],
            engines=[teacher.engine for teacher in self.teachers],
            kind=self.form.kind,
            count=self.form.count,
            vocabulary=self.form.vocabulary,
            windows=self.ids_NL.shape[0],
            length=self.ids_NL.shape[1],
            tokens=self.ids_NL.numel(),
            bytes_per_token=self.form.token_bytes,
            size_bytes=self.form.token_bytes * self.ids_NL.numel(),
            notes=self.notes,
        )

    def manifest(self) -> Manifest:
        return Manifest(
            gossamer_version=__version__,
            teachers=[teacher.record() for teacher in self.teachers],
            tokenizer_sha256=tokenizer_fingerprint(self.teachers[0].tokenizer),
            text_sha256=fingerprint("lessons", self.ids_NL),
            text=self.text,
            vocabulary=self.form.vocabulary,
            kind=self.form.kind,
            count=self.form.count,
            level_bits=self.form.level_bits,
            length=self.ids_NL.shape[1],
            windows=self.ids_NL.shape[0],
            start=list(self.start),
            seed=self.seed,
        )


def prepare(
    model: str | Path,
    text: Text | Sequence[Text],
    others: Sequence[str | Path],
    asked: Asked,
    progress: Progress,
) -> Task:
    """Check all that can be checked, and read the text; errors as `teach` has them."""
    if asked.windows is not None and asked.windows < 1:
        raise UsageError(f"--windows {asked.windows}: expected at least 1.")
    if not 0 <= asked.seed <= LARGEST_SEED:
        raise UsageError(f"seed {asked.seed}: expected 0 to 2^63 - 1.")
    teachers = [open_teacher(path, asked.engine, asked.activations) for path in (model, *others)]
    check_same_language(teachers)
    form = _form(teachers[0].vocabulary, asked.k, asked.samples)
    length = _fitting(asked.length, teachers)
    sources = [text] if isinstance(text, str | Path) else list(text)
    progress("reading text", 0, 1)
    stream = _read(sources, teachers[0])
    if len(stream) < length:
        raise DataError(
            f"{stream.name}: one window needs {length} tokens, the text has {len(stream)}. Give more text, or a "
            "smaller length."
        )
    ids_NL = sample(stream, asked.windows or len(stream) // length, length, asked.seed)
    progress("reading text", 1, 1)
    names = [Path(source).name for source in sources]
    return Task(teachers, form, ids_NL, names, stream.start, asked.seed)


def _form(vocabulary: int, k: int | None, samples: int | None) -> Form:
    if k is not None and samples is not None:
        raise UsageError("expected k (the likeliest tokens) or samples (random ones), got both.")
    if samples is not None:
        if not 1 <= samples <= SMALL_VOCABULARY:
            raise UsageError(f"--samples {samples}: expected 1 to {SMALL_VOCABULARY:,}.")
        return Form(SAMPLES, samples, vocabulary)
    k = min(DEFAULT_K, vocabulary) if k is None else k
    if not 1 <= k <= vocabulary:
        raise UsageError(f"--k {k}: expected 1 to {vocabulary:,}, the size of the vocabulary.")
    return Form(TOP_K, k, vocabulary)


def _fitting(length: int | None, teachers: Sequence[Teacher]) -> int:
    limits = [limit for teacher in teachers if (limit := teacher.positions) is not None]
    if length is None:
        return min([DEFAULT_LENGTH, *limits])
    if length < 2 or any(length > limit for limit in limits):
        most = f" to {min(limits):,}, the positions of the model" if limits else " or more"
        raise UsageError(f"--length {length}: expected 2{most}.")
    return length


def _read(sources: Sequence[Text], teacher: Teacher) -> TokenStream:
    if not sources:
        raise UsageError("expected at least one text, got none.")
    documents = deduplicate(itertools.chain.from_iterable(map(read_documents, sources))).documents
    name = "+".join(Path(source).name for source in sources)
    return tokenize(documents, teacher.tokenizer, name, teacher.vocabulary)
