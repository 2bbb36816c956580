"""What the bytes of a lesson mean: a set of token ids, and with each of them a level, in a fixed number of bits.

The ids stand in rising order, coded as Elias and Fano do (Elias 1974, "Efficient storage and retrieval by content and
address of static files"): the `low` last bits of each as they are, and what is above them as a row of bits in which
the i-th id sets bit (id >> low) + i. That takes about two bits an id more than its share log2(vocabulary / ids) of
the information, and keeps ids that come several times, as random samples do. Levels follow in the order of the ids.

Every token takes the same number of bytes, so that any of them is found without reading the others.

T tokens, K ids of a token, B bytes of a token.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gossamer.errors import FormatError

Bits = NDArray[np.uint8]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Code:
    """How many ids out of which vocabulary a token has, and how many bits of level each."""

    vocabulary: int
    count: int
    level_bits: int = 0

    @cached_property
    def low(self) -> int:
        """Bits of each id that stand as they are: as many as make the code shortest."""
        return min(range(33), key=lambda low: self.count * low + self._high_bits(low))

    def _high_bits(self, low: int) -> int:
        return self.count + (self.vocabulary - 1 >> low)

    @property
    def levels(self) -> int:
        """The largest level."""
        return (1 << self.level_bits) - 1

    @property
    def token_bits(self) -> int:
        return self._high_bits(self.low) + self.count * (self.low + self.level_bits)

    @property
    def token_bytes(self) -> int:
        return (self.token_bits + 7) // 8

    def encode(self, ids_TK: Ids, levels_TK: Ids | None = None) -> Bits:
        """Return code_TB (uint8) of ids that do not fall from one to the next, and of levels from 0 to `levels`."""
        high_TK = (ids_TK >> self.low) + np.arange(self.count)
        high_bits = np.zeros((len(ids_TK), self._high_bits(self.low)), dtype=np.uint8)
        np.put_along_axis(high_bits, high_TK, 1, axis=1)
        parts = [high_bits, _to_bits(ids_TK, self.low)]
        if levels_TK is not None:
            parts.append(_to_bits(levels_TK, self.level_bits))
        return np.packbits(np.concatenate(parts, axis=1), axis=1)

    def decode(self, code_TB: Bits) -> tuple[Ids, Ids]:
        """Return (ids_TK, levels_TK); FormatError for bytes that no ids have, or ids outside the vocabulary."""
        bits = np.unpackbits(code_TB, axis=1, count=self.token_bits)
        ends = np.cumsum([self._high_bits(self.low), self.count * self.low])
        high_bits, low_bits, level_bits = np.split(bits, ends, axis=1)
        if not bool((high_bits.sum(axis=1, dtype=np.int64) == self.count).all()):
            raise FormatError(f"expected the code of {self.count} token ids, got that of another number.")
        high_TK = np.nonzero(high_bits)[1].reshape(len(bits), self.count) - np.arange(self.count)
        ids_TK = (high_TK << self.low) | _from_bits(low_bits, self.count)
        if bool((ids_TK >= self.vocabulary).any()) or bool((np.diff(ids_TK, axis=1) < 0).any()):
            raise FormatError(f"expected token ids in rising order below {self.vocabulary:,}, got others.")
        return ids_TK, _from_bits(level_bits, self.count)


def _to_bits(values_TK: Ids, width: int) -> Bits:
    """The last `width` bits of each number, the lowest first, as a row of bits for each token."""
    bits_TKW = (values_TK[:, :, None] >> np.arange(width)) & 1
    return bits_TKW.astype(np.uint8).reshape(len(values_TK), -1)


def _from_bits(bits: Bits, count: int) -> Ids:
    width = bits.shape[1] // count
    values_TK = np.zeros((len(bits), count), dtype=np.int64)
    for place in range(width):
        values_TK |= bits[:, place::width].astype(np.int64) << place
    return values_TK
