"""Models that give lessons: on the native engine where their family has a plan, else in torch.

L tokens of a window, V entries of the vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gossamer.calibration.batches import position_limit
from gossamer.checkpoint.loading import load_opened
from gossamer.checkpoint.source import Source, open_model
from gossamer.errors import UnsupportedModelError, UsageError
from gossamer.runtime.choose import choose_engine
from gossamer.runtime.engine import Engine
from gossamer.training.lessons.manifest import TeacherRecord, tokenizer_fingerprint

LogitsOf = Callable[[Tensor], Tensor]
"""From ids_L (int64) to logits_LV (float32)."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model whose weights are not read yet."""

    path: str | Path
    source: Source
    tokenizer: PreTrainedTokenizerBase
    engine: str
    activations: str
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.source.path.name

    @property
    def vocabulary(self) -> int:
        """Width of the logits."""
        return int(self.source.config.get_text_config().vocab_size)

    @property
    def positions(self) -> int | None:
        return position_limit(self.source.reader.skeleton)

    def record(self) -> TeacherRecord:
        """Return what the manifest says of it; reads the weights once."""
        return TeacherRecord(
            name=self.name, sha256=self.source.fingerprint(), engine=self.engine, activations=self.activations
        )

    def load(self, length: int) -> LogitsOf:
        """Return the model as a function, for windows of `length` tokens."""
        if self.engine == "native":
            return Engine.open(self.path, activations=self.activations, cache_tokens=length).logits
        dtype = None if self.source.kind == "gossamer" else torch.float32
        model = load_opened(self.source, dtype=dtype, activations=self.activations).model

        def logits(ids_L: Tensor) -> Tensor:
            with torch.inference_mode():
                logits_LV: Tensor = model(ids_L[None], use_cache=False).logits[0]
                return logits_LV.float()

        return logits


def open_teacher(path: str | Path, engine: str, activations: str) -> Teacher:
    """Open a model.

    Raises UsageError for one that does not continue text, or has no tokenizer; CheckpointError if it cannot be read.
    """
    if activations not in ("float", "int8"):
        raise UsageError(f"activations: expected float or int8, got {activations!r:.40}.")
    source = open_model(path)
    skeleton = source.reader.skeleton
    if (
        not skeleton.can_generate()
        or skeleton.main_input_name != "input_ids"
        or source.config.is_encoder_decoder
    ):
        raise UsageError(
            f"{path}: {source.auto_class_name} does not predict the next token of a text, which lessons are made of. "
            "Give a causal language model."
        )
    if (tokenizer := source.tokenizer()) is None:
        raise UsageError(f"{path}: the model has no tokenizer, so no text can be shown to it.")
    notes: tuple[str, ...] = ()
    try:
        chosen = choose_engine(path, "native" if engine == "auto" else engine)
    except UnsupportedModelError as error:
        if engine != "auto":
            raise
        reason = str(error).removesuffix(" Use --engine torch.")
        chosen, notes = "torch", (f"{path}: runs with torch, which reads text more slowly: {reason}",)
    return Teacher(path, source, tokenizer, chosen, activations, notes)


def check_same_language(teachers: Sequence[Teacher]) -> None:
    """Raise UsageError unless all teachers have the same tokens."""
    first = teachers[0]
    for other in teachers[1:]:
        if other.vocabulary != first.vocabulary:
            reason = f"vocabularies have {first.vocabulary:,} and {other.vocabulary:,} entries"
        elif tokenizer_fingerprint(other.tokenizer) != tokenizer_fingerprint(first.tokenizer):
            reason = "tokenizers give other ids, or open texts in another way"
        else:
            continue
        raise UsageError(
            f"{first.path} and {other.path}: their {reason}, so that the mean of their answers has no meaning. "
            "Give teachers of one family."
        )
