"""The text to learn from, as windows without padding, and the windows of it that are kept apart.

N windows, L tokens in a window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossamer.calibration.batches import position_limit
from gossamer.checkpoint.source import Source
from gossamer.data.deduplicate import deduplicate
from gossamer.data.samples import fingerprint
from gossamer.data.sources import read_documents
from gossamer.data.tokens import tokenize, windows
from gossamer.distributed.processes import Processes
from gossamer.errors import DataError, UsageError
from gossamer.progress import Progress
from gossamer.training.lessons.reading import Lessons
from gossamer.training.mixture import WeightedText, all_weighted, shares, spread
from gossamer.training.shown import Shown, shown_to

DEFAULT_LENGTH = 512
HELD_OUT = 8
"""Windows kept apart, where there are enough."""
SMALLEST_SHARE = 8
"""At least so many times as many are learnt from."""


@dataclass(frozen=True)
class TrainingText:
    """Windows of text."""

    ids_NL: Tensor
    """int64."""
    learnt: tuple[int, ...]
    """Numbers of the windows to learn from."""
    held_out: tuple[int, ...]
    """Of those that judge."""
    shown: Shown
    """How a model is shown them, and what is asked of it."""
    record: dict[str, Any]
    """Where they come from; JSON."""

    def order(self, seed: int, position: int) -> Iterator[int]:
        """Give the numbers of windows to learn from, from the `position`-th on: all of them anew in each epoch."""
        size = len(self.learnt)
        for epoch in range(position // size, 2**62):
            generator = torch.Generator().manual_seed((seed + 1_000_003 * epoch) % 2**63)
            order = torch.randperm(size, generator=generator, device=generator.device).tolist()
            for number in order[position % size if epoch == position // size else 0 :]:
                yield self.learnt[number]


def read_text(
    source: Source, texts: Sequence[str | Path], length: int | None, seed: int, progress: Progress
) -> TrainingText:
    """Return the windows of all texts together, or of each in the share of its weight (training/mixture.py).

    Args:
        source: the model whose tokenizer reads them. length: tokens in a window; 512, or what the model can take.

    Raises DataError for text that is missing or too short, UsageError for weights or a length that cannot be.
    """
    tokenizer = source.tokenizer()
    if tokenizer is None:
        raise UsageError(f"{source.path}: the model has no tokenizer, so no text can be shown to it.")
    if not texts:
        raise UsageError("no text was given to learn from. Give one with --text.")
    given, length = all_weighted(texts), fitting_length(source, length)
    progress("reading text", 0, 1)
    names = [Path(each.text).name for each in given]
    documents = [list(read_documents(each.text)) for each in given]
    kept = {id(each) for each in deduplicate(chain.from_iterable(documents)).documents}
    documents = [[each for each in own if id(each) in kept] for own in documents]
    if given[0].weight is None:
        names, documents = [", ".join(names)], [list(chain.from_iterable(documents))]
    vocabulary = source.config.get_text_config().vocab_size
    streams = [tokenize(own, tokenizer, name, vocabulary) for name, own in zip(names, documents, strict=True)]
    parts = [windows(stream, length).ids_NL for stream in streams]
    sources = None
    if given[0].weight is not None:
        parts, sources = _mixed(given, names, parts)
    ids_NL, name = torch.cat(parts), ", ".join(names)
    if len(ids_NL) < 2:
        raise DataError(
            f"{name}: two windows of {length} tokens are needed, one to learn from and one to judge by; the text has "
            f"{sum(map(len, streams))} tokens. Give more text, or a smaller --length."
        )
    progress("reading text", 1, 1)
    shown = shown_to(source, max(1, len(streams[0].start)), seed)
    return _set_apart(shown.framed(ids_NL), shown, name, sources)


def _mixed(
    given: Sequence[WeightedText], names: Sequence[str], parts: Sequence[Tensor]
) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Take of each text what its weight asks for; return the windows, and what is recorded of each."""
    weights = [each.weight for each in given if each.weight is not None]
    counts = shares([len(part_NL) for part_NL in parts], weights)
    taken = [part_NL[spread(count, len(part_NL))] for part_NL, count in zip(parts, counts, strict=True)]
    about = [
        {
            "text": name,
            "weight": weight / sum(weights),
            "windows": len(ids_NL),
            "windows_there": len(part_NL),
            "tokens": ids_NL.numel(),
        }
        for name, weight, ids_NL, part_NL in zip(names, weights, taken, parts, strict=True)
    ]
    return taken, about


def text_of_lessons(source: Source, lessons: Lessons, length: int | None) -> TrainingText:
    """Return the windows of a folder of lessons.

    Raises DataError for a single window, UsageError for lessons of another vocabulary, tokenizer or length.
    """
    lessons.check_student(source.config.get_text_config().vocab_size, source.tokenizer(), str(source.path))
    if length is not None and length != lessons.length:
        raise UsageError(
            f"--length {length}: the lessons in {lessons.folder} have windows of {lessons.length}."
        )
    fitting_length(source, lessons.length)
    if len(lessons) < 2:
        raise DataError(f"{lessons.folder}: two windows are needed, one to learn from and one to judge by.")
    return _set_apart(
        lessons.all_ids(), Shown(first=max(1, len(lessons.manifest.start))), lessons.folder.name
    )


def shared(text: TrainingText | None, processes: Processes) -> TrainingText:
    """Give every process what the first has read; the others have None."""
    told = None if text is None else (text.learnt, text.held_out, text.shown, text.record)
    ids_NL = processes.handed_out(None if text is None else text.ids_NL)
    told = processes.agreed(told)
    assert ids_NL is not None and told is not None
    return TrainingText(ids_NL, *told)


def num_held_out(windows: int) -> int:
    """Return how many of so many windows are kept apart."""
    return min(windows, max(1, min(HELD_OUT, windows // (SMALLEST_SHARE + 1))))


def _set_apart(
    ids_NL: Tensor, shown: Shown, name: str, sources: list[dict[str, Any]] | None = None
) -> TrainingText:
    """Keep some windows apart, spread over the text."""
    count = num_held_out(len(ids_NL))
    held_out = tuple(round((number + 0.5) * len(ids_NL) / count - 0.5) for number in range(count))
    learnt = tuple(number for number in range(len(ids_NL)) if number not in held_out)
    record = {
        "source": name,
        "fingerprint": fingerprint(name, ids_NL),
        "tokens": ids_NL.numel(),
        "windows": len(ids_NL),
        "length": ids_NL.shape[1],
        "held_out_windows": count,
    }
    if sources is not None:
        record["sources"] = sources
    return TrainingText(ids_NL, learnt, held_out, shown, record)


def fitting_length(source: Source, length: int | None) -> int:
    """Return the length of the windows; UsageError for one that cannot be."""
    limit = position_limit(source.reader.skeleton)
    if length is None:
        return DEFAULT_LENGTH if limit is None else min(DEFAULT_LENGTH, limit)
    if length < 8:
        raise UsageError(f"--length {length}: expected at least 8.")
    if limit is not None and length > limit:
        raise UsageError(f"--length {length}: the model has positions for {limit} tokens only.")
    return length
