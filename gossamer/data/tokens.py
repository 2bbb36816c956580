"""Tokens: a text tokenised once, as one stream, and cut into windows.

The protocol is the one of GPTQ, SparseGPT and Wanda (Frantar et al. 2022, arXiv 2210.17323, code): documents
joined by a blank line, tokenised together, full windows without overlap, the tail dropped. What the tokenizer
puts in front of a text (its start token) opens the stream and every window cut from it, where it takes the
place of a token of the text, as in the perplexity tool of llama.cpp: a model that was trained on texts that
open so is off its ground without it.

Every token knows how many bytes of UTF-8 it stands for, so that bits per byte can be given for exactly the
text that was scored. The counts come from the tokenizer's offsets: their sum over the stream is exact;
inside, a character that is split over several tokens counts for the first of them, and characters that the
tokenizer drops count for the next.

Shapes: T tokens of the stream, N windows, L tokens in a window.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossamer.data.sources import Document
from gossamer.errors import DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n\n"
BATCH_CHARACTERS = 2_000_000
"""Documents are joined and tokenised together in batches of about this size, to bound memory.

Up to this size the result is exactly that of tokenising the joined text; beyond, no token spans two batches.
"""
PROBES = ("a", "the", "0", ".", "\n")
"""Texts that show what a tokenizer adds; the first that it has tokens for."""


@dataclass(frozen=True, slots=True)
class TokenStream:
    """A whole text as tokens."""

    ids_T: Tensor
    """int64."""
    bytes_T: Tensor
    """int64: how many bytes of text each token stands for (0 for start tokens)."""
    name: str
    num_documents: int
    start: tuple[int, ...] = ()
    """The start tokens, with which the stream and every window of it open; empty if the tokenizer adds none."""

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the text that the tokens cover, separators included."""
        return int(self.bytes_T.sum())

    def __len__(self) -> int:
        return self.ids_T.numel()


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of equal length over a stream; `stride < length` means that they overlap."""

    ids_NL: Tensor
    """int64."""
    bytes_NL: Tensor
    """int64: bytes of text of each token."""
    stride: int
    name: str
    start: tuple[int, ...] = ()
    """What every window opens with; empty if the tokenizer adds nothing."""

    def __len__(self) -> int:
        return self.ids_NL.shape[0]

    @property
    def length(self) -> int:
        return self.ids_NL.shape[1]

    @property
    def sha8(self) -> str:
        """First 8 hexadecimal digits of the SHA-256 of the token ids: says that two figures saw the same
        tokens."""
        return hashlib.sha256(self.ids_NL.contiguous().numpy().tobytes()).hexdigest()[:8]


def tokenize(
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerBase",
    name: str = "text",
    vocabulary: int | None = None,
) -> TokenStream:
    """Tokenise `documents` once, joined by a blank line, without special tokens but those at the start.

    `tokenizer` is a transformers tokenizer; `name` says in signatures what the text is; `vocabulary` is the number
    of rows of the model's embedding (None: not checked). Without offsets (slow tokenizers) the bytes are spread
    evenly over the tokens of a batch.

    Raises DataError when there is no text, when it gives no tokens, or one that the model has no embedding for.
    """
    start = start_tokens(tokenizer)
    ids: list[NDArray[np.int64]] = [np.array(start, dtype=np.int64)]
    byte_counts: list[NDArray[np.int64]] = [np.zeros(len(start), dtype=np.int64)]
    num_documents = 0
    for batch in _batches(documents):
        text = (SEPARATOR if num_documents else "") + SEPARATOR.join(document.text for document in batch)
        num_documents += len(batch)
        batch_ids, batch_bytes = _tokenize_text(text, tokenizer)
        ids.append(batch_ids)
        byte_counts.append(batch_bytes)
    if num_documents == 0:
        raise DataError(f"{name}: expected documents to tokenise, got none. Give a source with text in it.")
    ids_T, bytes_T = (torch.from_numpy(np.concatenate(parts)) for parts in (ids, byte_counts))
    stream = TokenStream(ids_T, bytes_T, name, num_documents, start)
    if len(stream) == len(start):
        raise DataError(
            f"{name}: the tokenizer gives no tokens for this text. Give other text, or check the tokenizer."
        )
    if vocabulary is not None:
        check_ids(ids_T, vocabulary, tokenizer, name)
    return stream


def check_ids(ids: Tensor, vocabulary: int, tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """Raise DataError if one of `ids` (integers of any shape) has no row in an embedding of `vocabulary` rows.

    `name` says where the ids come from.
    """
    outside = ids[(ids < 0) | (ids >= vocabulary)].unique().tolist()
    if not outside:
        return
    shown = ", ".join(f"{each} ({tokenizer.convert_ids_to_tokens(each)!r})" for each in outside[:3])
    more = f" and {len(outside) - 3} more" if len(outside) > 3 else ""
    raise DataError(
        f"{name}: the tokenizer gives tokens that the model has no embedding for: {shown}{more}; its embedding has "
        f"{vocabulary:,} rows. Take the model's own tokenizer, enlarge the embedding (resize_token_embeddings) and "
        "train it, or take these tokens out of the text."
    )


def added_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens that the tokenizer really puts before and behind a text, found by tokenising one."""
    for probe in PROBES:
        whole = list(tokenizer(probe)["input_ids"])
        plain = list(tokenizer(probe, add_special_tokens=False)["input_ids"])
        for first in range(len(whole) - len(plain) + 1) if plain else ():
            if whole[first : first + len(plain)] == plain:
                return tuple(whole[:first]), tuple(whole[first + len(plain) :])
    return (), ()


def start_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Return what a causal model always sees before a text; nothing for an encoder's frame [CLS] ... [SEP]."""
    before, _behind = added_tokens(tokenizer)
    is_frame = before[:1] == (getattr(tokenizer, "cls_token_id", None),)
    return () if is_frame else before


def open_windows(ids_NL: Tensor, start: Sequence[int]) -> None:
    """Put the start tokens in the place of the first tokens of every window."""
    ids_NL[:, : len(start)] = torch.tensor(start, dtype=ids_NL.dtype)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _tokenize_text(
    text: str, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (ids_T, bytes_T) of one text."""
    has_offsets = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(
        text, add_special_tokens=False, truncation=False, return_offsets_mapping=has_offsets,
        return_attention_mask=False, return_token_type_ids=False, verbose=False,
    )  # fmt: skip
    ids_T = np.array(encoded["input_ids"], dtype=np.int64)
    position_C = _byte_positions(text)
    if not has_offsets or not len(ids_T):
        edge_T = np.linspace(0, position_C[-1], len(ids_T) + 1).round().astype(np.int64)
        return ids_T, np.diff(edge_T)
    end_T = np.array([end for _, end in encoded["offset_mapping"]], dtype=np.int64)
    byte_end_T = position_C[np.maximum.accumulate(end_T)]
    return ids_T, np.diff(byte_end_T, prepend=0)


def _byte_positions(text: str) -> NDArray[np.int64]:
    """For each character boundary, the number of UTF-8 bytes before it; one entry more than there are
    characters."""
    code_C = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    width_C = 1 + (code_C >= 0x80).astype(np.int64) + (code_C >= 0x800) + (code_C >= 0x10000)
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(width_C)])


def windows(stream: TokenStream, length: int, stride: int | None = None, limit: int | None = None) -> Windows:
    """Cut the stream into full windows of `length` tokens, `stride` tokens apart (default: no overlap).

    Every window opens with the stream's start tokens, in the place of its first tokens. What is left after the last
    full window is dropped. `limit` keeps only the first windows.

    Raises DataError when the text is shorter than one window, UsageError for impossible settings.
    """
    stride = length if stride is None else stride
    shortest = max(2, len(stream.start) + 1)
    if length < shortest or not 1 <= stride <= length or (limit is not None and limit < 1):
        raise UsageError(
            f"windows: expected length >= {shortest}, 1 <= stride <= length and at least one window; "
            f"got length {length}, stride {stride}, windows {limit}."
        )
    if len(stream) < length:
        raise DataError(
            f"{stream.name}: one window needs {length} tokens, the text has {len(stream)}. "
            "Give more text or a smaller length."
        )
    ids_NL = stream.ids_T.unfold(0, length, stride)[:limit].clone()
    bytes_NL = stream.bytes_T.unfold(0, length, stride)[:limit].clone()
    open_windows(ids_NL, stream.start)
    bytes_NL[:, : len(stream.start)] = 0
    return Windows(ids_NL, bytes_NL, stride, stream.name, stream.start)
