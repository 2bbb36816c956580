"""Measure the quality of a model on a text, beside its dense parent: what `gossamer evaluate` does.

Causal models: perplexity, bits per byte, KL divergence and agreement. Masked models: pseudo-perplexity. Bare
encoders: cosine between the sentence embeddings of model and parent.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gossamer.calibration.batches import position_limit
from gossamer.checkpoint.loading import load
from gossamer.checkpoint.source import open_model
from gossamer.data.deduplicate import deduplicate
from gossamer.data.sources import Document, read_documents
from gossamer.data.tokens import Windows, tokenize, windows
from gossamer.errors import CheckpointError, DataError, UsageError
from gossamer.evaluation.kept import KeptModel
from gossamer.evaluation.quality.divergence import compare
from gossamer.evaluation.quality.embeddings import embedding_cosine, mean_pooled_embeddings
from gossamer.evaluation.quality.perplexity import perplexity
from gossamer.evaluation.quality.pseudo_perplexity import PseudoPerplexityResult, pseudo_perplexity
from gossamer.evaluation.result import Evaluation, Kind
from gossamer.evaluation.speed.native import NativeModel
from gossamer.progress import Progress, silent
from gossamer.runtime.choose import DEFAULT_ACTIVATIONS, choose_engine

DEFAULT_LENGTH, DEFAULT_WINDOWS = 1024, 64
PSEUDO_LENGTH, PSEUDO_WINDOWS, PSEUDO_POSITIONS = 128, 16, 16
NUM_SENTENCES = 512


Model: TypeAlias = PreTrainedModel | NativeModel | KeptModel


def evaluate(
    model: str | Path | KeptModel,
    *,
    text: str | Path,
    against: str | Path | KeptModel | None = None,
    length: int | None = None,
    num_windows: int | None = None,
    stride: int | None = None,
    activations: str | None = None,
    engine: str = "auto",
    progress: Progress = silent,
) -> Evaluation:
    """Measure `model` on `text`, and `against` (its parent) on the same windows in the same pass.

    Args:
        model: folder, GGUF file or hub id; or a dense model that is open already.
        text: file, folder or data set; nothing that the model was calibrated on.
        against: the dense parent, as the model; without it the figures that compare are None.
        length: tokens in a window; 1024, or what the model has positions for.
        num_windows: at most so many windows, from the start of the text.
        stride: tokens from window to window; default: no overlap.
        activations: "float" or "int8" for packed integer linears; default: int8 on the native engine, else float.
        engine: "native", "torch", or "auto": native where the family has a plan. The parent always runs in torch.
        progress: called as the work goes on.

    Returns:
        The figures; see docs/evaluation.md for each of them.

    Raises:
        GossamerError: a model or text that cannot be read, or that do not belong together.
    """
    engine = "torch" if isinstance(model, KeptModel) else choose_engine(model, engine)
    activations = activations or DEFAULT_ACTIVATIONS[engine]
    subject, parent = _open_both(model, against, engine, activations, progress)
    path, parent_path = _path(model), None if against is None else _path(against)
    if subject.tokenizer is None:
        raise UsageError(f"{path}: the model has no tokenizer, so no text can be shown to it.")
    progress("reading text", 0, 1)
    documents = deduplicate(read_documents(text)).documents
    kind = _kind(subject.model)
    if parent is not None and _kind(parent) != kind:
        raise UsageError(
            f"{parent_path}: a parent that does what {path} does ({kind}) was expected, not {_kind(parent)}."
        )
    before = _conditions(kind, path, parent_path, engine, activations)
    if kind == "embeddings":
        progress("reading text", 1, 1)
        return _checked(_embeddings(before, subject, parent, documents, progress))
    length = _fitting(length, DEFAULT_LENGTH if kind == "causal" else PSEUDO_LENGTH, subject.model)
    if num_windows is None:
        num_windows = DEFAULT_WINDOWS if kind == "causal" else PSEUDO_WINDOWS
    vocabulary = subject.model.config.get_text_config().vocab_size
    stream = tokenize(documents, subject.tokenizer, Path(text).name, vocabulary)
    cut = windows(stream, length, stride, num_windows)
    progress("reading text", 1, 1)
    measure = _causal if kind == "causal" else _masked
    return _checked(measure(before, subject, parent, cut, progress))


@dataclass(frozen=True, slots=True)
class _Subject:
    """The model that is measured, and its tokenizer, which reads the text for the parent too."""

    model: Model
    tokenizer: PreTrainedTokenizerBase | None


def _path(model: str | Path | KeptModel) -> str | Path:
    return model.path if isinstance(model, KeptModel) else model


def _open_parent(against: str | Path | KeptModel | None) -> PreTrainedModel | KeptModel | None:
    if against is None or isinstance(against, KeptModel):
        return against
    return load(against, dtype=torch.float32).model


def _open_both(
    model: str | Path | KeptModel,
    against: str | Path | KeptModel | None,
    engine: str,
    activations: str,
    progress: Progress,
) -> tuple[_Subject, Model | None]:
    progress("reading models", 0, 2)
    subject = _open_subject(model, engine, activations)
    progress("reading models", 1, 2)
    parent = _open_parent(against)
    progress("reading models", 2, 2)
    return subject, parent


def _open_subject(model: str | Path | KeptModel, engine: str, activations: str) -> _Subject:
    if isinstance(model, KeptModel):
        return _Subject(model, open_model(model.path).tokenizer())
    if engine == "torch":
        return _Subject(*load(model, activations=activations))
    return _Subject(NativeModel.open(model, activations), open_model(model).tokenizer())


def _conditions(
    kind: Kind, model: str | Path, against: str | Path | None, engine: str, activations: str
) -> Evaluation:
    """What is known before anything is measured."""
    parent = None if against is None else open_model(against)
    return Evaluation(
        kind=kind,
        model=str(model),
        parent=None if against is None else str(against),
        engine=engine,
        activations=activations,
        size_bytes=open_model(model).size_bytes,
        parent_size_bytes=None if parent is None else parent.size_bytes,
        parent_bf16_bytes=None if parent is None else 2 * parent.num_parameters,
    )


def _checked(result: Evaluation) -> Evaluation:
    """Return it; CheckpointError if a figure that rests on the outputs of a single model, or a cosine, is NaN."""
    judged = (
        (result.perplexity, result.model),
        (result.parent_perplexity, result.parent),
        (result.pseudo_perplexity, result.model),
        (result.parent_pseudo_perplexity, result.parent),
        (result.embedding_cosine_mean, f"{result.model} or {result.parent}"),
    )
    for figure, path in judged:
        if figure is not None and math.isnan(figure):
            raise CheckpointError(
                f"{path}: the model predicts NaN on this text. Its weights are damaged, or too large."
            )
    return result


def _kind(model: Model) -> Kind:
    if isinstance(model, NativeModel):
        return "causal"
    if isinstance(model, KeptModel):
        model = model.model
    if model.config.is_encoder_decoder:
        raise UsageError(
            f"{type(model).__name__}: perplexity of encoder-decoders is not measured; use your task's own metric."
        )
    if model.can_generate():
        return "causal"
    return "masked" if model.get_output_embeddings() is not None else "embeddings"


def _fitting(length: int | None, default: int, model: Model) -> int:
    """The length asked for, or as much of the default as the model has positions for."""
    limit = position_limit(model)
    if length is None:
        return default if limit is None else min(default, limit)
    if limit is not None and length > limit:
        raise UsageError(f"--length {length}: the model has positions for {limit} tokens only.")
    return length


def _causal(
    before: Evaluation, subject: _Subject, parent: Model | None, cut: Windows, progress: Progress
) -> Evaluation:
    def advance(done: int, total: int) -> None:
        progress("perplexity", done, total)

    if parent is None:
        own, both = perplexity(subject.model, cut, advance), None
    else:
        both = compare(subject.model, parent, cut, advance)
        own = both.model
    result = replace(
        before,
        perplexity=own.perplexity,
        bits_per_byte=own.bits_per_byte,
        perplexity_signature=own.signature,
        tokens=own.tokens,
    )
    if both is None:
        return result
    return replace(
        result,
        parent_perplexity=both.parent.perplexity,
        parent_bits_per_byte=both.parent.bits_per_byte,
        kl_mean=both.kl_mean,
        top1_agreement=both.top1_agreement,
        perplexity_ratio=both.perplexity_ratio,
        perplexity_ratio_ci95=both.perplexity_ratio_ci95,
    )


def _masked(
    before: Evaluation, subject: _Subject, parent: Model | None, cut: Windows, progress: Progress
) -> Evaluation:
    def measure(model: Model) -> PseudoPerplexityResult:
        return pseudo_perplexity(
            model, subject.tokenizer, cut, positions=PSEUDO_POSITIONS,
            progress=lambda done, total: progress("pseudo-perplexity", done, total),
        )  # fmt: skip

    own = measure(subject.model)
    return replace(
        before,
        pseudo_perplexity=own.pseudo_perplexity,
        pseudo_perplexity_signature=own.signature,
        tokens=own.tokens,
        parent_pseudo_perplexity=None if parent is None else measure(parent).pseudo_perplexity,
    )


def _embeddings(
    before: Evaluation,
    subject: _Subject,
    parent: Model | None,
    documents: Iterable[Document],
    progress: Progress,
) -> Evaluation:
    if parent is None:
        raise UsageError("an encoder without a head is judged beside its parent: give it with --against.")
    sentences = first_sentences(documents, NUM_SENTENCES)
    progress("sentence embeddings", 0, 2)
    own = mean_pooled_embeddings(subject.model, subject.tokenizer, sentences)
    progress("sentence embeddings", 1, 2)
    other = mean_pooled_embeddings(parent, subject.tokenizer, sentences)
    progress("sentence embeddings", 2, 2)
    cosine_S = embedding_cosine(own, other)
    return replace(
        before,
        sentences=len(sentences),
        embedding_cosine_mean=float(cosine_S.mean()),
        embedding_cosine_min=float(cosine_S.min()),
        embedding_cosine_p05=float(cosine_S.quantile(0.05)),
    )


def first_sentences(documents: Iterable[Document], count: int) -> list[str]:
    """The first `count` sentences of 5 to 60 words, taken in turn from the documents' texts.

    Raises DataError when there is none.
    """
    found: list[str] = []
    for document in documents:
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])|\n+", document.text):
            if 5 <= len(sentence.split()) <= 60:
                found.append(sentence.strip())
                if len(found) == count:
                    return found
    if not found:
        raise DataError("expected sentences of 5 to 60 words in the text, found none.")
    return found
