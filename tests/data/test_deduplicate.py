"""Deduplication against exact Jaccard similarities."""

import random

import pytest

from gossamer.data.deduplicate import _hash_factors, deduplicate, minhash, normalised_words
from gossamer.data.sources import Document
from gossamer.errors import UsageError

WORDS = [f"word{index}" for index in range(2000)]


def text(seed: int, length: int = 300) -> list[str]:
    return random.Random(seed).choices(WORDS, k=length)


def test_texts_equal_but_for_case_and_punctuation_are_dropped() -> None:
    documents = [Document("Hello, World!", "a"), Document("other", "b"), Document("hello\n world", "c")]
    result = deduplicate(documents)
    assert [document.name for document in result.documents] == ["a", "b"]
    assert result.exact == [("c", "a")]


def test_near_duplicates_are_dropped_and_different_texts_kept() -> None:
    base = text(0)
    changed = [*base[:150], "changed", *base[151:]]
    half = [*base[:150], *text(1)[:150]]
    documents = [
        Document(" ".join(words), str(i)) for i, words in enumerate([base, changed, half, text(2), []])
    ]
    result = deduplicate(documents)
    assert [document.name for document in result.documents] == ["0", "2", "3", "4"]
    assert result.near == [("1", "0")]
    assert len(deduplicate(documents, threshold=None).documents) == 5


def test_the_same_seed_gives_the_same_result() -> None:
    documents = [Document(" ".join(text(seed % 7)[: 250 + seed]), str(seed)) for seed in range(30)]
    assert deduplicate(documents, 0.6, seed=3) == deduplicate(documents, 0.6, seed=3)


def test_minhash_estimates_the_jaccard_similarity() -> None:
    factors = _hash_factors(0)
    base = text(0, 2000)
    for share in (0.3, 0.6, 0.9):
        other = [*base[: int(2000 * share)], *text(5, 2000)[int(2000 * share) :]]
        shingles = [{tuple(words[i : i + 5]) for i in range(1996)} for words in (base, other)]
        jaccard = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
        estimate = (minhash(base, factors) == minhash(other, factors)).mean()
        assert abs(estimate - jaccard) < 0.15


def test_words_do_not_depend_on_compatibility_forms() -> None:
    assert normalised_words("Ｆｕｌｌ ﬁne") == ["full", "fine"]  # noqa: RUF001


def test_an_impossible_threshold_is_refused() -> None:
    with pytest.raises(UsageError, match="threshold"):
        deduplicate([], threshold=1.5)
