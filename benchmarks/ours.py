"""The native engine in a process of its own, as llama-bench runs llama.cpp: a warm-up, then each figure once, as JSON.

    python -m benchmarks.ours FOLDER --threads T [--prompt P] [--tokens N] [--depth D] [--batch B --batch-tokens M]

prefill: a prompt of P tokens in an empty cache. decode: N tokens behind D others. batch: M tokens of each of B
sequences at once, behind D others each. Amounts of 0 are left out. The prompt is random, the arithmetic that of
`gossamer generate`: int8 activations, a cache in float16, the most likely token taken.
"""

import argparse
import json
import sys
import time

import torch

from gossamer.kernels.dispatch import isa
from gossamer.runtime.engine import BLOCK_TOKENS, Engine

WARM_UP = 16


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ours")
    parser.add_argument("folder")
    for name in ("threads", "prompt", "tokens", "depth", "batch", "batch-tokens"):
        parser.add_argument(f"--{name}", type=int, default=1 if name in ("threads", "depth") else 0)
    given = parser.parse_args()
    batch_room = given.batch * (given.depth + given.batch_tokens + given.batch + 1 + BLOCK_TOKENS)
    room = max(given.prompt, given.depth + given.tokens, batch_room, WARM_UP) + BLOCK_TOKENS
    engine = Engine.open(given.folder, threads=given.threads, cache_tokens=room)
    figures = {"weight_bytes_per_token": engine.weight_bytes_per_token, "isa": isa()}
    list(engine.generate(random_ids(engine, max(given.prompt, WARM_UP)), 2))
    if given.prompt:
        figures["prefill"] = given.prompt / prefill_seconds(engine, given.prompt)
    if given.tokens:
        figures["decode"] = given.tokens / decode_seconds(engine, given.depth, given.tokens)
    if given.batch:
        seconds = batch_seconds(engine, given.batch, given.depth, given.batch_tokens)
        figures["batch"] = given.batch * given.batch_tokens / seconds
    sys.stdout.write(json.dumps(figures) + "\n")


def random_ids(engine: Engine, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(engine.vocabulary_size, (count,), generator=torch.Generator().manual_seed(seed))


def prefill_seconds(engine: Engine, prompt: int) -> float:
    """Seconds from the prompt to the first token behind it."""
    ids_T = random_ids(engine, prompt)
    started = time.perf_counter()
    list(engine.generate(ids_T, 1))
    return time.perf_counter() - started


def decode_seconds(engine: Engine, depth: int, tokens: int) -> float:
    """Seconds of `tokens` tokens of one sequence behind `depth` others."""
    written = engine.generate(random_ids(engine, depth), tokens + 1)
    next(written)
    started = time.perf_counter()
    for _ in written:
        pass
    return time.perf_counter() - started


def batch_seconds(engine: Engine, sequences: int, depth: int, tokens: int) -> float:
    """Seconds of `tokens` steps of all sequences at once, each behind a prompt of its own of `depth` tokens."""
    room = tokens + sequences + 1  # prompts that are read first write tokens while the others are read
    numbers = [engine.add(random_ids(engine, depth, seed), room) for seed in range(sequences)]
    while len(engine.step()) < sequences:
        pass
    started = time.perf_counter()
    for _ in range(tokens):
        assert len(engine.step()) == sequences
    seconds = time.perf_counter() - started
    for number in numbers:
        engine.cancel(number)
    return seconds


if __name__ == "__main__":
    main()
