"""Measure the speed of models given by their paths: what `gossamer bench` does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gossamer.checkpoint.loading import load
from gossamer.checkpoint.source import open_model
from gossamer.errors import UsageError
from gossamer.evaluation import speed


def benchmark(
    model: str | Path,
    *,
    against: str | Path | None = None,
    threads: int | None = None,
    prompt: str | None = None,
    prompt_tokens: int = 64,
    tokens: int = 64,
    repeats: int = 5,
    activations: str = "float",
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> dict[str, Any]:
    """Measure load time, prefill, decode and memory of `model`, and of `against` interleaved in the same run.

    Dense models run in bfloat16, as they are usually stored and served; compressed ones as `load` gives them.

    Args:
        model, against: folder, GGUF file or hub id.
        threads: default: every core that this process may use.
        prompt: text to start from; default: `prompt_tokens` random tokens.
        tokens: decoded in each round. repeats: rounds that count.
        activations: "float" or "int8" for packed integer linears.

    Raises:
        GossamerError: a model that cannot be read, or arguments that cannot be meant.
    """
    ids = None
    if prompt is not None:
        tokenizer = open_model(model).tokenizer()
        if tokenizer is None:
            raise UsageError(f"{model}: the model has no tokenizer for the prompt. Leave the prompt out.")
        ids = tokenizer(prompt, verbose=False)["input_ids"]
    report = speed.benchmark(
        _subject(model, activations),
        None if against is None else _subject(against, activations),
        threads=threads,
        prompt_ids=ids,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        repeats=repeats,
        progress=progress,
    )
    return report.to_dict()


def _subject(path: str | Path, activations: str) -> speed.Subject:
    packed = open_model(path).kind == "gossamer"
    dtype = None if packed else torch.bfloat16
    return speed.Subject(
        name=str(path),
        load=lambda: load(path, dtype=dtype, activations=activations).model,
        path=str(path),
        dtype="auto" if packed else "bfloat16",
        activations=activations,
    )
