"""Deduplication: exact by hash of the normalised text, near by MinHash.

Source: Broder 1997, "On the resemblance and containment of documents": the share of equal minima of two
documents under random hash functions estimates the Jaccard similarity of their shingle sets. Candidates are
found by banding (Leskovec et al., "Mining of Massive Datasets", section 3.4), then judged by the whole
signature.

Shapes: W words, K shingles (runs of `SHINGLE_WORDS` words), P hash functions. Cost: O(K * P) per document; a
signature of 4 * P bytes is kept for each document that stays.
"""

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossamer.data.sources import Document
from gossamer.errors import UsageError

SHINGLE_WORDS = 5
NUM_HASHES = 128
ROWS_PER_BAND = 4
"""32 bands of 4 rows: two documents of similarity 0.7 are compared with probability 0.9998, of 0.8
practically always."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """What stays, in the order given, and which document was dropped in favour of which (by name)."""

    documents: list[Document]
    exact: list[tuple[str, str]]
    near: list[tuple[str, str]]


def deduplicate(documents: Iterable[Document], threshold: float | None = 0.8, seed: int = 0) -> Deduplicated:
    """Keep the first of every group of equal or similar documents.

    Two documents are equal when they agree but for case, punctuation and white space, and similar when the
    estimated Jaccard similarity of their 5-word shingles is at least `threshold` (None: only equal ones are
    dropped; the estimate has a standard error of about 0.04). The same input and seed always give the same
    result.

    Raises UsageError when the threshold is not in (0, 1].
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"deduplicate: expected a threshold in (0, 1] or None, got {threshold}.")
    hash_factors = _hash_factors(seed)
    result = Deduplicated([], [], [])
    name_by_digest: dict[bytes, str] = {}
    signatures: list[NDArray[np.uint32]] = []  # of result.documents
    bands: dict[tuple[int, bytes], list[int]] = {}
    for document in documents:
        words = normalised_words(document.text)
        digest = hashlib.sha256(" ".join(words).encode()).digest()
        if digest in name_by_digest:
            result.exact.append((document.name, name_by_digest[digest]))
            continue
        name_by_digest[digest] = document.name
        if threshold is not None:
            signature_P = minhash(words, hash_factors)
            keys = [
                (band, rows.tobytes()) for band, rows in enumerate(signature_P.reshape(-1, ROWS_PER_BAND))
            ]
            candidates = sorted({index for key in keys for index in bands.get(key, ())})
            similar = next(
                (i for i in candidates if np.mean(signatures[i] == signature_P) >= threshold), None
            )
            if similar is not None:
                result.near.append((document.name, result.documents[similar].name))
                continue
            for key in keys:
                bands.setdefault(key, []).append(len(signatures))
            signatures.append(signature_P)
        result.documents.append(document)
    return result


def normalised_words(text: str) -> list[str]:
    """The words of `text` without regard to case, punctuation, white space and compatibility forms."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _hash_factors(seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Random (odd factor, offset) of P multiply-shift hash functions on 64 bits."""
    generator = np.random.default_rng(seed)
    factor_P = generator.integers(0, 2**64, NUM_HASHES, dtype=np.uint64) | np.uint64(1)
    return factor_P, generator.integers(0, 2**64, NUM_HASHES, dtype=np.uint64)


def minhash(
    words: list[str], hash_factors: tuple[NDArray[np.uint64], NDArray[np.uint64]]
) -> NDArray[np.uint32]:
    """Return signature_P: for each hash function, its minimum over the shingles of the text."""
    factor_P, offset_P = hash_factors
    word_W = np.array([zlib.crc32(word.encode()) for word in words] or [0], dtype=np.uint64)
    width = min(SHINGLE_WORDS, len(word_W))
    shingle_K = np.zeros(len(word_W) - width + 1, dtype=np.uint64)
    for index in range(width):
        shingle_K = shingle_K * np.uint64(0x9E3779B97F4A7C15) + word_W[index : index + len(shingle_K)]
    shingle_K = np.unique(shingle_K)
    signature_P = np.empty(NUM_HASHES, dtype=np.uint32)
    for index in range(NUM_HASHES):
        hashed_K = (shingle_K * factor_P[index] + offset_P[index]) >> np.uint64(32)
        signature_P[index] = hashed_K.min()
    return signature_P
