"""Task metrics against counts by hand."""

import pytest
import torch

from gossamer.errors import UsageError
from gossamer.evaluation.quality.embeddings import (
    accuracy,
    bleu,
    embedding_cosine,
    f1,
    mean_pooled_embeddings,
    precision,
    recall,
)
from tests.models import tiny_model, tiny_tokenizer

PREDICTIONS = ["a", "a", "b", "c", "a"]
LABELS = ["a", "b", "b", "b", "a"]


def test_classification_metrics_match_counts_by_hand() -> None:
    assert accuracy(PREDICTIONS, LABELS) == pytest.approx(3 / 5)
    assert precision(PREDICTIONS, LABELS) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert recall(PREDICTIONS, LABELS) == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert f1(PREDICTIONS, LABELS) == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert f1(PREDICTIONS, LABELS, "micro") == pytest.approx(3 / 5)
    assert precision([1, 0, 1], [1, 1, 0], "binary") == pytest.approx(1 / 2)
    assert recall([0, 0], [1, 1], "binary") == 0


def test_bleu_carries_its_signature() -> None:
    same = bleu(["the cat sat on the mat"], ["the cat sat on the mat"])
    assert same.score == pytest.approx(100)
    assert same.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    other = bleu(["the cat sat on a mat"], ["the cat sat on the mat"])
    # 5/6 unigrams, 3/5 bigrams, 2/4 trigrams, 1/3 four-grams, no brevity penalty
    assert other.score == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    several = bleu(["the cat sat on a mat"], [["the cat sat on the mat", "the cat sat on a mat"]])
    assert several.score == pytest.approx(100)
    assert "nrefs:2" in several.signature


def test_predictions_without_their_labels_are_refused() -> None:
    for metric in (accuracy, precision, recall, f1, bleu):
        with pytest.raises(UsageError, match="as many predictions as labels"):
            metric(["a"], ["a", "b"])
        with pytest.raises(UsageError, match="at least one"):
            metric([], [])
    with pytest.raises(UsageError, match="same number of references"):
        bleu(["a", "b"], [["a"], ["a", "b"]])


def test_embeddings_are_means_over_the_tokens_whatever_the_padding() -> None:
    encoder, tokenizer = tiny_model("bert").base_model, tiny_tokenizer()
    sentences = ["a cat", "a much longer sentence about dogs", "x"]
    embedding_SD = mean_pooled_embeddings(encoder, tokenizer, sentences, batch_size=2)
    for sentence, embedding_D in zip(sentences, embedding_SD, strict=True):
        with torch.inference_mode():
            hidden_LD = encoder(torch.tensor([tokenizer(sentence)["input_ids"]])).last_hidden_state[0]
        torch.testing.assert_close(embedding_D, hidden_LD.mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="at least one sentence"):
        mean_pooled_embeddings(encoder, tokenizer, [])


def test_cosine_compares_row_by_row() -> None:
    a_SD = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert embedding_cosine(a_SD, torch.tensor([[2.0, 0.0], [-1.0, -1.0]])).tolist() == pytest.approx([1, -1])
    with pytest.raises(UsageError, match="equal shapes"):
        embedding_cosine(a_SD, a_SD[:1])
