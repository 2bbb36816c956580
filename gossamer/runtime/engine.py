"""The native engine: a model that reads token ids and continues them, several sequences at a time.

Every call runs whole steps in native code without the GIL. Weights are mapped from the files.

T tokens, V entries of the vocabulary.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from transformers import PretrainedConfig

from gossamer.errors import CheckpointError, RunError, UsageError
from gossamer.kernels.dispatch import native_module, num_threads
from gossamer.runtime.bind import bind
from gossamer.runtime.family import plan_of
from gossamer.runtime.memory import available_bytes
from gossamer.runtime.scheduler import Scheduler
from gossamer.runtime.sequence import Event, Request, Sampling
from gossamer.runtime.weights import Weights, open_weights

if TYPE_CHECKING:
    from gossamer.kernels import _native

P = ParamSpec("P")
R = TypeVar("R")

BLOCK_TOKENS = 32
"""Tokens in a block of the cache."""
STEP_TOKENS = 128
"""Rows of the largest step: longer prompts are read in parts of this size."""
CACHE_SHARE = 0.5
"""Of the memory that is free, the cache takes at most this, when nobody says how large it shall be."""


class Engine:
    """A model on the native engine.

    One call runs at a time; other threads wait their turn.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        threads: int | None = None,
        activations: str = "int8",
        cache: str = "float16",
        cache_tokens: int | None = None,
        step_tokens: int = STEP_TOKENS,
    ):
        """Prepare a model for running; `Engine.open` does it from a path.

        Args:
            threads: default: every CPU that this process may use.
            activations: "int8" rounds the inputs of packed integer weights, "float" is exact.
            cache: "float16" or "int8" keys and values.
            cache_tokens: room for so many tokens over all sequences; default: one sequence of the model's limit, or
                what fits in half of the free memory.
            step_tokens: rows of the largest step.

        Raises:
            CheckpointError: weights that do not fit. UnsupportedModelError: a family without a plan.
            UsageError: settings out of range, or a cache that does not fit in memory.
        """
        if activations not in ("float", "int8") or cache not in ("float16", "int8"):
            raise UsageError(
                f"expected activations float or int8, and cache float16 or int8; got {activations!r} and {cache!r}."
            )
        self.config: PretrainedConfig = weights.config
        self.where = weights.where
        self.activations = activations
        self.step_tokens = step_tokens
        plan = plan_of(weights.config)
        bound = bind(plan, weights)
        self.notes = _notes(weights)
        self.max_positions = plan.max_positions
        self.weight_bytes_per_token: int = bound.weight_bytes()
        self.num_blocks = self._num_blocks(bound.cache_block_bytes(cache == "int8"), cache_tokens)
        native = native_module()
        assert native is not None
        try:
            self._native: _native.Engine = native.Engine(
                bound,
                threads or num_threads(),
                activations == "int8",
                cache == "int8",
                step_tokens,
                self.num_blocks,
            )
        except ValueError as error:
            raise UsageError(f"{self.where}: {error}.") from error
        self.threads: int = self._native.threads
        self.vocabulary_size: int = self._native.outputs
        if self.vocabulary_size != plan.vocabulary_size:
            raise CheckpointError(
                f"{self.where}: expected {plan.vocabulary_size} tokens, as config.json says, got weights for "
                f"{self.vocabulary_size}. Restore the folder."
            )
        self._scheduler = Scheduler(self._native, step_tokens, BLOCK_TOKENS)

    @classmethod
    def open(cls, path: str | Path, **settings: Any) -> "Engine":
        """Open a compressed folder, a dense folder, a GGUF file or a hub id; `settings` as in the constructor."""
        return cls(open_weights(path), **settings)

    def _num_blocks(self, block_bytes: int, cache_tokens: int | None) -> int:
        free = available_bytes()
        wanted = self.max_positions if cache_tokens is None else cache_tokens
        if wanted < 1:
            raise UsageError(f"cache tokens: expected at least 1, got {wanted}.")
        blocks = -(-wanted // BLOCK_TOKENS)
        if cache_tokens is None and free is not None:
            blocks = max(1, min(blocks, int(free * CACHE_SHARE) // block_bytes))
        if free is not None and blocks * block_bytes > free:
            raise UsageError(
                f"{self.where}: a cache of {wanted} tokens takes {blocks * block_bytes / 1e9:.2f} GB, "
                f"{free / 1e9:.2f} GB of memory are free. Ask for fewer tokens, or for an int8 cache."
            )
        return blocks

    # ---- all logits ----------------------------------------------------------------------------------------

    def logits(self, ids: Tensor | Sequence[int]) -> Tensor:
        """Return logits_TV behind each of the tokens of a text."""
        tokens = self._checked(ids)
        logits_TV = torch.empty(len(tokens), self.vocabulary_size)
        sequence = self._native.open(0.0, 0, 1.0, 0.0, 1.0, 0)
        try:
            self._run(self._native.score, sequence, tokens, logits_TV.data_ptr())
        finally:
            self._native.close(sequence)
        return logits_TV

    # ---- one sequence --------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: Tensor | Sequence[int],
        max_tokens: int,
        *,
        sampling: Sampling | None = None,
        stops: Sequence[int] = (),
    ) -> Iterator[int]:
        """Yield up to `max_tokens` tokens that continue the prompt; one of `stops` comes last and ends it.

        Whoever stops listening ends it too.
        """
        tokens = self._checked(prompt, max_tokens)
        sequence = self._open(sampling)
        return self._stream(sequence, tokens, max_tokens, torch.tensor(list(stops), dtype=torch.int32))

    def _stream(self, sequence: int, tokens: Tensor, max_tokens: int, stops: Tensor) -> Iterator[int]:
        ends = set(stops.tolist())
        try:
            token = self._run(self._native.step, [(sequence, tokens, True)])[0]
            for _ in range(max_tokens - 1):
                yield token
                if token in ends:
                    return
                token = self._run(self._native.generate, sequence, 1, stops)[0]
            yield token
        finally:
            self._native.close(sequence)

    # ---- several sequences ---------------------------------------------------------------------------------

    def add(
        self,
        prompt: Tensor | Sequence[int],
        max_tokens: int,
        *,
        sampling: Sampling | None = None,
        stops: Sequence[int] = (),
    ) -> int:
        """Queue a prompt to be continued by `step`, beside the others; return the number of the sequence."""
        tokens = self._checked(prompt, max_tokens)
        blocks = -(-(len(tokens) + max_tokens) // BLOCK_TOKENS)
        if blocks > self.num_blocks:
            raise UsageError(
                f"{len(tokens)} tokens of prompt and {max_tokens} new ones exceed the cache of "
                f"{self.num_blocks * BLOCK_TOKENS} tokens."
            )
        sequence = self._open(sampling)
        self._scheduler.add(sequence, Request(tokens, max_tokens, frozenset(stops), blocks))
        return sequence

    @property
    def busy(self) -> bool:
        """True while there is something to do for `step`."""
        return self._scheduler.busy

    def step(self) -> list[Event]:
        """Run one step of all sequences: continue each by a token, and read the next part of new prompts.

        A prompt waits until the cache has room for all that it may become. One that begins like another one that is
        running takes over the blocks of what they share.
        """
        feeds = self._scheduler.feeds()
        return self._scheduler.take(feeds, self._run(self._native.step, feeds))

    def cancel(self, sequence: int) -> None:
        """Forget a sequence, whether it is waiting, running or unknown."""
        self._scheduler.cancel(sequence)

    # ---- shared --------------------------------------------------------------------------------------------

    def _open(self, sampling: Sampling | None) -> int:
        s = sampling or Sampling()
        seed = secrets.randbits(64) if s.seed is None else s.seed % 2**64
        try:
            number: int = self._native.open(
                s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty, seed
            )
        except ValueError as error:
            raise UsageError(f"sampling: {error}.") from error
        return number

    def _checked(self, ids: Tensor | Sequence[int], max_tokens: int = 0) -> Tensor:
        """Return the ids as int32; UsageError for none, for unknown ones and for too many."""
        tokens = torch.as_tensor(ids).reshape(-1)
        if not len(tokens) or max_tokens < 0:
            raise UsageError("expected at least one token of prompt, and no negative number of new ones.")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocabulary_size:
            raise UsageError(f"token ids must be from 0 to {self.vocabulary_size - 1}, got {low} to {high}.")
        if len(tokens) + max_tokens > self.max_positions:
            raise UsageError(
                f"{len(tokens)} tokens of prompt and {max_tokens} new ones exceed the model's "
                f"{self.max_positions} positions."
            )
        return tokens.to(torch.int32).contiguous()

    def _run(self, call: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        try:
            return call(*arguments, **named)
        except RuntimeError as error:
            raise RunError(f"{self.where}: {error}.") from error


def _notes(weights: Weights) -> tuple[str, ...]:
    """What the engine does otherwise than the folder says."""
    if not weights.expanded:
        return ()
    return (
        f"{weights.expanded} bitmasks of int4 are multiplied as dense integers on this CPU, which takes the memory of "
        "those; GOSSAMER_EXPAND=0 keeps them packed",
    )
