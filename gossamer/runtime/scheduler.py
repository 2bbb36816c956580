"""Which sequences go into the next step of the engine, and what becomes of the tokens that it writes."""

from collections import deque
from typing import TYPE_CHECKING

from torch import Tensor

from gossamer.runtime.sequence import Event, Request, common_prefix

if TYPE_CHECKING:
    from gossamer.kernels import _native

Feed = tuple[int, Tensor, bool]
"""(sequence, tokens to read, whether a token is to be sampled behind them); no tokens: the last one written."""


class Scheduler:
    """Sequences that run, and prompts that wait for room in the cache."""

    def __init__(self, native: "_native.Engine", step_tokens: int, block_tokens: int):
        """`native`: the engine that holds the sequences; `step_tokens`: rows of the largest step."""
        self._native = native
        self._step_tokens = step_tokens
        self._block_tokens = block_tokens
        self._running: dict[int, Request] = {}
        self._waiting: deque[tuple[int, Request]] = deque()

    @property
    def busy(self) -> bool:
        """True while a sequence runs or waits."""
        return bool(self._running or self._waiting)

    def add(self, sequence: int, request: Request) -> None:
        """Let a prompt wait for its turn."""
        self._waiting.append((sequence, request))

    def feeds(self) -> list[Feed]:
        """Start the prompts that there is room for; return what the next step reads."""
        self._start()
        feeds: list[Feed] = []
        budget = self._step_tokens
        running = sorted(self._running.items(), key=lambda item: item[1].read < len(item[1].tokens))
        for sequence, request in running:  # those that write come first: a long prompt never holds them up
            if budget == 0:
                break
            if request.read == 0:
                self._share_prefix(sequence, request)
            part = request.tokens[request.read : request.read + budget]
            request.read += len(part)
            feeds.append((sequence, part, request.read == len(request.tokens)))
            budget -= max(1, len(part))
        return feeds

    def take(self, feeds: list[Feed], sampled: list[int]) -> list[Event]:
        """Note the tokens that a step wrote (below 0: none); forget the sequences that they finish."""
        events = []
        for (sequence, _, _), token in zip(feeds, sampled, strict=True):
            if token < 0:
                continue
            request = self._running[sequence]
            request.written += 1
            finished = token in request.stops or request.written == request.max_tokens
            events.append(Event(sequence, token, finished))
            if finished:
                self.cancel(sequence)
        return events

    def cancel(self, sequence: int) -> None:
        """Forget a sequence, whether it is waiting, running or unknown."""
        if self._running.pop(sequence, None) is None:
            waiting = deque(each for each in self._waiting if each[0] != sequence)
            if len(waiting) == len(self._waiting):
                return
            self._waiting = waiting
        self._native.close(sequence)

    def _start(self) -> None:
        """A prompt waits until the cache has room for all that it and the running sequences may become."""
        room = self._native.num_free_blocks() - sum(
            request.blocks - -(-self._native.length(sequence) // self._block_tokens)
            for sequence, request in self._running.items()
        )
        while self._waiting and self._waiting[0][1].blocks <= room:
            sequence, request = self._waiting.popleft()
            self._running[sequence] = request
            room -= request.blocks

    def _share_prefix(self, sequence: int, request: Request) -> None:
        """Take over the blocks of the running sequence whose prompt begins most alike; leave a token to be read."""
        shared, source = max(
            (common_prefix(request.tokens[:-1], other.tokens[: self._native.length(number)]), number)
            for number, other in self._running.items()
        )
        if blocks := shared // self._block_tokens:
            request.read = blocks * self._block_tokens
            self._native.share(sequence, source, request.tokens[: request.read])
