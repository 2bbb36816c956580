"""Lessons that a teacher has given: windows of text, and for each token of them what the teacher would say next.

Which are read in which order is the reader's choice. Some shards are kept in memory as they are on disk.

B windows of a batch, L tokens in a window, K ids kept of a token.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gossamer.errors import FormatError, UsageError
from gossamer.training.lessons.answers import SAMPLES, Answers, decode_samples, decode_top_k
from gossamer.training.lessons.divergence import Lesson, Samples, TopK
from gossamer.training.lessons.manifest import read_manifest, tokenizer_fingerprint
from gossamer.training.lessons.shards import read_shard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARDS_IN_MEMORY = 16


class Batch(NamedTuple):
    """Some windows, and the lessons on them."""

    ids_BL: Tensor
    """int64."""
    lesson: Lesson
    """At [b, l]: what the teacher expects behind token l of window b."""


class Lessons:
    """A folder that `gossamer teach` has finished.

    Raises FormatError when it is damaged, here or when its shards are read; UsageError when it is not finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.manifest = read_manifest(self.folder)
        if not self.manifest.finished:
            raise UsageError(
                f"{folder}: the lessons are not finished, {self.manifest.windows_done} of {self.manifest.windows} "
                "windows are there. Give the command that began them again: it goes on."
            )
        self.length, self.vocabulary = self.manifest.length, self.manifest.vocabulary
        self._ends = list(accumulate(shard.windows for shard in self.manifest.shards))
        self._shards: OrderedDict[int, Answers] = OrderedDict()

    def __len__(self) -> int:
        """Windows."""
        return self.manifest.windows

    def check_student(
        self, vocabulary: int, tokenizer: "PreTrainedTokenizerBase | None", where: str = "the student"
    ) -> None:
        """Raise UsageError, with the reason, unless a model can learn from these lessons.

        Args:
            vocabulary: width of its logits. tokenizer: its own; None: not compared. where: its name.
        """
        teacher = self.manifest.teachers[0].name
        if vocabulary != self.vocabulary:
            raise UsageError(
                f"{where}: its vocabulary has {vocabulary:,} entries, that of {teacher}, which gave the lessons in "
                f"{self.folder}, has {self.vocabulary:,}. Take a teacher of the same family."
            )
        if tokenizer is not None and tokenizer_fingerprint(tokenizer) != self.manifest.tokenizer_sha256:
            raise UsageError(
                f"{where}: its tokenizer gives other ids, or opens texts in another way, than that of {teacher}, "
                f"which gave the lessons in {self.folder}: the same id is another token. Take a teacher of the same "
                "family."
            )

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the windows of these numbers, 0 to len - 1, with their lessons. IndexError for others."""
        rows = [self._row(index) for index in indices]
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        ids_BL = torch.from_numpy(arrays["ids"].astype(np.int64))
        return Batch(ids_BL, self._lesson(arrays))

    def all_ids(self) -> Tensor:
        """Return the token ids of all windows, ids_NL (int64)."""
        shards = (self._shard(number)["ids"] for number in range(len(self._ends)))
        return torch.from_numpy(np.concatenate(list(shards)).astype(np.int64))

    def _row(self, index: int) -> Answers:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        place = index - self._ends[number] + self.manifest.shards[number].windows
        return {name: array[place] for name, array in self._shard(number).items()}

    def _shard(self, number: int) -> Answers:
        if number not in self._shards:
            if len(self._shards) >= SHARDS_IN_MEMORY:
                self._shards.popitem(last=False)
            self._shards[number] = read_shard(self.folder, self.manifest.shards[number], self.manifest)
        self._shards.move_to_end(number)
        return self._shards[number]

    def _lesson(self, arrays: Answers) -> Lesson:
        form, shape = self.manifest.form, arrays["ids"].shape
        flat = {name: np.reshape(array, (-1, *array.shape[2:])) for name, array in arrays.items()}
        try:
            if form.kind == SAMPLES:
                ids_TK, entropy_T = decode_samples(form, flat["code"], flat["entropy"])
                return Samples(_shaped(ids_TK, shape), _shaped(entropy_T, shape), form.vocabulary)
            ids_TK, log_probs_TK, log_rest_T = decode_top_k(
                form, flat["code"], flat["log_rest"], flat["span"]
            )
        except FormatError as error:
            raise FormatError(f"{self.folder}: {error} The lessons are damaged: teach again.") from error
        log_probs_BK, log_rest_B = _shaped(log_probs_TK, shape), _shaped(log_rest_T, shape)
        return TopK(_shaped(ids_TK, shape), log_probs_BK, log_rest_B, form.vocabulary)


def _shaped(array: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(array).reshape(*shape, *array.shape[1:])
