"""Measure the speed of models given by their paths: what `gossamer bench` does."""

from pathlib import Path

import torch

from gossamer.checkpoint.source import open_model
from gossamer.data.tokens import check_ids
from gossamer.errors import UsageError
from gossamer.evaluation.speed import compare as speed
from gossamer.evaluation.speed.result import Benchmark
from gossamer.evaluation.speed.runners import LLAMA_CPP, open_runner, peer_for
from gossamer.evaluation.speed.surroundings import num_cores
from gossamer.progress import Progress, silent
from gossamer.runtime.choose import DEFAULT_ACTIVATIONS, choose_engine


def benchmark(
    model: str | Path,
    *,
    against: str | Path | None = None,
    threads: int | None = None,
    prompt: str | None = None,
    prompt_tokens: int = 64,
    tokens: int = 64,
    repeats: int = 5,
    load_repeats: int = 2,
    activations: str | None = None,
    engine: str = "auto",
    peer: str = "auto",
    progress: Progress = silent,
) -> Benchmark:
    """Measure load time, prefill, decode and memory of `model`, and of `against` interleaved in the same run.

    With torch, dense models run in bfloat16, as they are usually stored; compressed ones as `load` gives them.

    Args:
        model, against: folder, GGUF file or hub id.
        threads: default: every core that this process may use.
        prompt: text to start from; default: `prompt_tokens` random tokens.
        tokens: decoded in each round. repeats: rounds that count.
        load_repeats: processes that load each model, for its load time and peak memory.
        activations: "float" or "int8" for packed integer linears; default: int8 on the native engine, else float.
        engine: of `model`: "native", "torch", or "auto": native where the family has a plan.
        peer: of `against`: the same, or "llama.cpp"; "auto": llama.cpp for GGUF files when its llama-bench is on the
            PATH, torch for other dense models.

    Returns:
        The figures of the model in `own`, of the other one in `against`; see docs/evaluation.md for each of them.

    Raises:
        GossamerError: a model that cannot be read, or arguments that cannot be meant.
    """
    if against is None and peer != "auto":
        raise UsageError(f"--peer {peer}: it says what runs the other model. Give one with --against.")
    ids = None if prompt is None else _ids_of(prompt, model)
    threads = num_cores() if threads is None else threads
    if threads < 1:
        raise UsageError(f"threads: expected at least 1, got {threads}")
    return speed.benchmark(
        _subject(model, choose_engine(model, engine), activations, threads),
        None if against is None else _subject(against, peer_for(against, peer), activations, threads),
        threads=threads,
        prompt_ids=ids,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        repeats=repeats,
        load_repeats=load_repeats,
        progress=progress,
    )


def _ids_of(prompt: str, model: str | Path) -> list[int]:
    """The prompt's tokens; UsageError if the model cannot read it."""
    source = open_model(model)
    tokenizer = source.tokenizer()
    if tokenizer is None:
        raise UsageError(f"{model}: the model has no tokenizer for the prompt. Leave the prompt out.")
    ids: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
    check_ids(torch.tensor(ids), source.config.get_text_config().vocab_size, tokenizer, "--prompt")
    return ids


def _subject(path: str | Path, engine: str, activations: str | None, threads: int) -> speed.Subject:
    dense = engine == "torch" and open_model(path).kind != "gossamer"
    dtype = "bfloat16" if dense else "auto"
    chosen = activations or DEFAULT_ACTIVATIONS.get(engine, "float")
    return speed.Subject(
        name=str(path),
        load=lambda: open_runner(path, engine, dtype, chosen, threads),
        path=None if engine == LLAMA_CPP else str(path),  # it loads the file in processes of its own
        dtype=dtype,
        activations=chosen,
        engine=engine,
    )
