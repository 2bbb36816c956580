"""Text that the parent writes itself, to be learnt from: `recover --text self`.

Drawn token by token from the parent's own distribution, as in LLM-QAT (Liu et al. 2023, arXiv 2305.17888, section
3.1), at several temperatures in turn: cool ones give likely text, hot ones rare tokens. Each document begins with the
start token, or where the model has none with a token at random, and ends where the model ends it, or as a window does.

Documents are kept as JSON lines, which a run that goes on reads again, and which `--text` takes as it takes others.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gossamer.checkpoint.loading import load_opened
from gossamer.checkpoint.source import Source
from gossamer.checkpoint.write.writer import disk_errors
from gossamer.data.samples import start_token
from gossamer.data.sources import read_documents
from gossamer.data.tokens import start_tokens
from gossamer.errors import DataError, UnsupportedModelError, UsageError
from gossamer.files import written_whole
from gossamer.progress import Progress
from gossamer.runtime.choose import choose_engine
from gossamer.runtime.engine import Engine
from gossamer.runtime.sequence import Sampling
from gossamer.runtime.torch_engine import TorchEngine
from gossamer.runtime.weights import open_weights
from gossamer.training.mixture import all_weighted
from gossamer.training.settings import TrainingSettings
from gossamer.training.text import HELD_OUT

SELF = "self"
"""In the place of a text: what the parent writes."""
TEMPERATURES = (0.7, 1.0, 1.3)
AT_ONCE = 16
"""Documents that are written side by side, where the cache for so many fits in memory."""
SHARE_OF_MINUTES = 0.2
"""Of a run that is given minutes: how long text is written at the most."""
WRITING = "writing text to learn from"


@dataclass(frozen=True)
class OwnText:
    """What a user may ask of it."""

    tokens: int | None = None
    """None: what the run can use."""
    file: Path | None = None
    """Where to keep it; None: with what a stopped run goes on from, and no longer."""


@dataclass(frozen=True)
class Wanted:
    """How much text."""

    length: int
    """Tokens in a document at the most, its start included."""
    tokens: int | None
    seconds: float | None
    """One of the two ends it; documents that were begun are finished."""
    seed: int


@dataclass
class Document:
    """One that is being written."""

    opening: list[int]
    temperature: float
    seed: int
    ids: list[int]


class Desk:
    """Gives openings until enough is written; counts what those that are being written may become."""

    def __init__(self, source: Source, wanted: Wanted, progress: Progress) -> None:
        tokenizer = source.tokenizer()
        assert tokenizer is not None
        self.wanted, self.tokenizer, self._progress = wanted, tokenizer, progress
        self._config = source.config.get_text_config()
        said = source.generation().get("eos_token_id") or [tokenizer.eos_token_id]
        self.stops = sorted({int(token) for token in said if token is not None})
        first = start_token(source.config, tokenizer)
        self._start = list(start_tokens(tokenizer)) or ([] if first is None else [first])
        self._number = self._promised = self._written = 0
        self._began = time.monotonic()

    def opening(self) -> Document | None:
        """Return a document to be written; None if no more are needed."""
        if self._enough():
            return None
        number, self._number = self._number, self._number + 1
        seed = (self.wanted.seed + 1_000_003 * number) % 2**63
        self._promised += self.wanted.length
        return Document(
            self._start or [self._at_random(seed)], TEMPERATURES[number % len(TEMPERATURES)], seed, []
        )

    def _enough(self) -> bool:
        if self.wanted.tokens is not None:
            return self._promised >= self.wanted.tokens
        assert self.wanted.seconds is not None
        return self._promised > 0 and time.monotonic() - self._began >= self.wanted.seconds

    def _at_random(self, seed: int) -> int:
        generator = torch.Generator().manual_seed(seed)
        return int(torch.randint(self._config.vocab_size, (1,), generator=generator, device=generator.device))

    def room(self, document: Document) -> int:
        """How many tokens may follow."""
        return self.wanted.length - len(document.opening)

    def finished(self, document: Document) -> None:
        """Count a document, and tell of it."""
        length = max(1, len(document.opening) + len(document.ids))
        self._promised += length - self.wanted.length
        self._written += length
        if self.wanted.tokens is not None:
            self._progress(WRITING, min(self._written, self.wanted.tokens), self.wanted.tokens)
        elif self.wanted.seconds is not None:
            total = max(1, int(self.wanted.seconds))
            self._progress(f"{WRITING}, seconds", min(total, int(time.monotonic() - self._began)), total)


def wanted_text(
    asked: OwnText, settings: TrainingSettings, length: int, steps: int | None, minutes: float | None
) -> Wanted:
    """Return how much to write: what was asked for, or what so many steps read, or what a share of the time gives.

    Raises UsageError for less than two windows.
    """
    tokens, seconds = asked.tokens, None
    if tokens is not None and tokens < 2 * length:
        raise UsageError(
            f"--self-tokens {tokens}: at least two windows of {length} tokens were expected, one to learn from and one "
            "to judge by."
        )
    if tokens is None and steps is not None:
        tokens = (steps * settings.batch + HELD_OUT) * length
    elif tokens is None and minutes is not None:
        seconds = SHARE_OF_MINUTES * 60 * minutes
    return Wanted(length, tokens, seconds, settings.seed)


def writes_itself(texts: Sequence[str | Path]) -> bool:
    """True if one of the texts is what the parent writes."""
    return any(each.text == SELF for each in all_weighted(texts))


def check_asked(texts: Sequence[str | Path], asked: OwnText) -> None:
    """Raise UsageError if more is asked of a text than is given; DataError for one that is missing."""
    found = [each.text for each in all_weighted(texts)]
    if SELF in found:
        for text in found:
            if text != SELF:
                read_documents(text)  # told at once, and not after the parent has written for minutes
        return
    for option, value in (("--self-tokens", asked.tokens), ("--text-out", asked.file)):
        if value is not None:
            raise UsageError(f"{option} {value}: the parent writes no text. Give --text self.")


def write_own_text(source: Source, wanted: Wanted, file: Path, progress: Progress) -> list[str]:
    """Have the model write text to `file`, whole or not at all; return what is to be noted.

    Raises UsageError if the file exists, DataError if the model writes nothing.
    """
    if file.exists():
        raise UsageError(f"--text-out {file}: exists already. Choose another name, or give it as --text.")
    desk = Desk(source, wanted, progress)
    documents, notes = _documents(source, desk)
    model = signature(source)
    count = 0
    with disk_errors(file), written_whole(file) as opened:
        for document in documents:
            desk.finished(document)
            text = desk.tokenizer.decode([*document.opening, *document.ids], skip_special_tokens=True)
            line = {"text": text, "model": model, "temperature": document.temperature, "seed": document.seed}
            opened.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
            count += not text.isspace() and bool(text)
        if not count:
            raise DataError(f"{source.path}: writes no text at all. Give some with --text.")
    return notes


def signature(source: Source) -> str:
    """Return what says which model wrote a document."""
    return f"{source.path.name} {source.fingerprint()[:16]}"


def check_own_text(source: Source, file: Path) -> None:
    """Raise UsageError unless this model wrote the file."""
    try:
        with file.open(encoding="utf-8") as lines:
            first: Any = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--text-out {file}: cannot be read ({error}). Delete it, or choose another."
        ) from error
    if not isinstance(first, dict) or first.get("model") != signature(source):
        raise UsageError(f"--text-out {file}: was not written by {source.path.name}. Choose another name.")


def _documents(source: Source, desk: Desk) -> tuple[Iterator[Document], list[str]]:
    """Return the documents as they are finished, and notes."""
    try:
        choose_engine(source.path, "native")
    except UnsupportedModelError as error:
        reason = str(error).removesuffix(" Use --engine torch.")
        return _by_torch(source, desk), [
            f"--text self: written with torch, one at a time, which is slow: {reason}"
        ]
    return _by_engine(source, desk), []


def _by_engine(source: Source, desk: Desk) -> Iterator[Document]:
    """Write side by side."""
    engine = _engine(source, desk.wanted.length)
    running: dict[int, Document] = {}
    while True:
        while len(running) < AT_ONCE and (document := desk.opening()) is not None:
            sampling = Sampling(temperature=document.temperature, seed=document.seed)
            room = desk.room(document)
            running[engine.add(document.opening, room, sampling=sampling, stops=desk.stops)] = document
        if not running:
            return
        for event in engine.step():
            running[event.sequence].ids.append(event.token)
            if event.finished:
                yield running.pop(event.sequence)


def _engine(source: Source, length: int) -> Engine:
    """Open the model with room for as many documents as the memory takes."""
    weights = open_weights(source.path)
    for at_once in (AT_ONCE, AT_ONCE // 4):
        try:
            return Engine(weights, activations="float", cache_tokens=at_once * length)
        except UsageError:  # the cache does not fit; documents then wait for each other
            continue
    return Engine(weights, activations="float", cache_tokens=length)


def _by_torch(source: Source, desk: Desk) -> Iterator[Document]:
    """Write one after the other."""
    model = load_opened(source, dtype=torch.float32).model
    engine = TorchEngine(model, str(source.path), source.generation())
    while (document := desk.opening()) is not None:
        sampling = Sampling(temperature=document.temperature, seed=document.seed)
        document.ids += engine.generate(
            document.opening, desk.room(document), sampling=sampling, stops=desk.stops
        )
        yield document
