"""A sequence of tokens that is read and continued: how its tokens are chosen, and how far it has come.

T tokens.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is chosen; in transformers' order: penalty, temperature, top-k, top-p, min-p."""

    temperature: float = 0.0
    """0: always the most likely token."""
    top_k: int = 0
    """Among the k most likely tokens; 0: all."""
    top_p: float = 1.0
    """Among the fewest tokens of that total probability."""
    min_p: float = 0.0
    """Among tokens at least this share as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Above 1: what was read or written already becomes less likely."""
    seed: int | None = None
    """Makes sampling repeatable."""


@dataclass(frozen=True, slots=True)
class Event:
    """A token that a step wrote."""

    sequence: int
    token: int
    finished: bool


@dataclass(slots=True)
class Request:
    """A prompt that waits, is being read, or is being continued."""

    tokens: Tensor
    max_tokens: int
    stops: frozenset[int]
    blocks: int
    """Of the cache, once all is written."""
    read: int = 0
    written: int = 0


def common_prefix(a_T: Tensor, b_T: Tensor) -> int:
    """Return how many tokens two texts share from their start."""
    length = min(len(a_T), len(b_T))
    differ = (a_T[:length] != b_T[:length]).nonzero()
    return int(differ[0]) if len(differ) else length
