"""Task metrics as functions of predictions, and similarity of sentence embeddings.

Classification by scikit-learn, translation by sacrebleu (Post 2018, arXiv 1804.08771) with its signature.
Nothing here runs a classifier: predictions come in, numbers go out.

Shapes: S sentences, L tokens of the longest sentence in a batch, D features of an embedding.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gossamer.errors import UsageError
from gossamer.evaluation.quality.perplexity import scoring

Label = int | str
Average = Literal["binary", "macro", "micro", "weighted"]


def _metrics() -> ModuleType:
    """Return sklearn.metrics, which takes a second to import."""
    return importlib.import_module("sklearn.metrics")


def accuracy(predictions: Sequence[Label], labels: Sequence[Label]) -> float:
    """Share of the predictions that equal their label, 0..1."""
    _check_pairs(predictions, labels)
    return float(_metrics().accuracy_score(labels, predictions))


def precision(predictions: Sequence[Label], labels: Sequence[Label], average: Average = "macro") -> float:
    """Share of what was predicted as a class that is of that class, 0..1; 0 for a class never predicted."""
    _check_pairs(predictions, labels)
    return float(_metrics().precision_score(labels, predictions, average=average, zero_division=0))


def recall(predictions: Sequence[Label], labels: Sequence[Label], average: Average = "macro") -> float:
    """Share of a class that was found, 0..1; 0 for a class that does not occur."""
    _check_pairs(predictions, labels)
    return float(_metrics().recall_score(labels, predictions, average=average, zero_division=0))


def f1(predictions: Sequence[Label], labels: Sequence[Label], average: Average = "macro") -> float:
    """Harmonic mean of precision and recall, 0..1; "macro" weighs every class alike."""
    _check_pairs(predictions, labels)
    return float(_metrics().f1_score(labels, predictions, average=average, zero_division=0))


@dataclass(frozen=True, slots=True)
class Bleu:
    """Corpus BLEU, 0..100, and sacrebleu's signature."""

    score: float
    signature: str


def bleu(predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]) -> Bleu:
    """Corpus BLEU against one reference each, or several (every item then holds the references of one
    prediction).

    Raises UsageError when lengths differ or the predictions do not all have the same number of references.
    """
    _check_pairs(predictions, references)
    several = [[item] if isinstance(item, str) else list(item) for item in references]
    if len({len(item) for item in several}) != 1 or not several[0]:
        raise UsageError("bleu: expected the same number of references (at least 1) for every prediction.")
    import sacrebleu  # takes half a second

    metric = sacrebleu.BLEU()
    streams = [list(stream) for stream in zip(*several, strict=True)]
    score = metric.corpus_score(list(predictions), streams)
    return Bleu(float(score.score), str(metric.get_signature()))


def _check_pairs(predictions: Sequence[object], labels: Sequence[object]) -> None:
    if len(predictions) != len(labels) or not len(predictions):
        raise UsageError(
            f"metrics: expected as many predictions as labels, at least one; "
            f"got {len(predictions)} and {len(labels)}."
        )


def mean_pooled_embeddings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    *,
    batch_size: int = 32,
    max_length: int = 256,
) -> Tensor:
    """Return embedding_SD (float32): the mean of an encoder's last hidden states over the tokens of each
    sentence.

    Source: Reimers and Gurevych 2019, "Sentence-BERT" (arXiv 1908.10084), mean pooling. Not normalised.
    """
    parts: list[Tensor] = []
    device = getattr(model, "device", "cpu")
    with scoring(model):
        for start in range(0, len(sentences), batch_size):
            batch = tokenizer(
                list(sentences[start : start + batch_size]),
                padding=True,
                truncation=True,
                max_length=max_length,
                return_tensors="pt",
            ).to(device)
            hidden_SLD = model(**batch).last_hidden_state.float()
            mask_SL1 = batch["attention_mask"][:, :, None].float()
            parts.append(((hidden_SLD * mask_SL1).sum(1) / mask_SL1.sum(1)).cpu())
    if not parts:
        raise UsageError("embeddings: expected at least one sentence, got none.")
    return torch.cat(parts)


def embedding_cosine(embedding_SD: Tensor, other_SD: Tensor) -> Tensor:
    """Return cosine_S (float32, -1..1) between the embeddings of the same sentences by two models.

    Raises UsageError when the shapes differ.
    """
    if embedding_SD.shape != other_SD.shape:
        raise UsageError(
            f"embeddings: expected equal shapes, got {tuple(embedding_SD.shape)} and {tuple(other_SD.shape)}."
        )
    return torch.nn.functional.cosine_similarity(embedding_SD.float(), other_SD.float(), dim=-1)
