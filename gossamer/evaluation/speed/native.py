"""Models on the native engine, for what measures models: the same protocols run through the same code as users run."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Self

from torch import Tensor, nn

from gossamer.evaluation.speed.decode import DECODER, Round
from gossamer.runtime.engine import Engine


class NativeModel:
    """Looks like a causal model of transformers as far as measurements go: a config, logits, rounds of its own."""

    kind = DECODER

    def __init__(self, engine: Engine):
        self.engine = engine
        self.config = engine.config
        self.dtype = f"native-{engine.activations}"
        """What a signature says about the arithmetic."""
        self.weight_bytes_per_token = engine.weight_bytes_per_token

    @classmethod
    def open(cls, path: str | Path, activations: str, threads: int | None = None) -> Self:
        return cls(Engine.open(path, activations=activations, threads=threads))

    def eval(self) -> Self:
        return self

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """There are none to look at."""
        return iter(())

    def __call__(self, ids_1T: Tensor, use_cache: bool = False) -> SimpleNamespace:
        """Return an object with logits [1, T, V] (float32)."""
        return SimpleNamespace(logits=self.engine.logits(ids_1T[0])[None])

    def run_round(self, ids_1T: Tensor, tokens: int) -> Round:
        """Read the prompt and decode `tokens` tokens, as `gossamer.evaluation.speed.decode.run_round` does."""
        written = self.engine.generate(ids_1T[0], tokens + 1)
        started = time.perf_counter()
        next(written)
        prefill = time.perf_counter() - started
        started = time.perf_counter()
        for _ in written:
            pass
        return Round(prefill, time.perf_counter() - started)
