"""Open a model on the engine that is to be measured."""

from pathlib import Path

import torch

from gossamer.checkpoint.loading import load
from gossamer.checkpoint.source import open_model
from gossamer.evaluation.speed.decode import Runner
from gossamer.evaluation.speed.llama_cpp import LlamaBench, find_tool
from gossamer.evaluation.speed.native import NativeModel
from gossamer.runtime.choose import choose_engine

LLAMA_CPP = "llama.cpp"
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_runner(path: str | Path, engine: str, dtype: str, activations: str, threads: int) -> Runner:
    """Return a model that `run_round` can time.

    Args:
        engine: "native", "torch" or "llama.cpp", as `runner_for` or `peer_for` gave it.
        dtype: for torch; "auto": as the checkpoint has it.
    """
    if engine == LLAMA_CPP:
        return LlamaBench(path, threads)
    if engine == "native":
        return NativeModel.open(path, activations, threads)
    return load(path, dtype=DTYPES[dtype], activations=activations).model


def peer_for(path: str | Path, peer: str) -> str:
    """Return the engine of what a model is measured against.

    `auto`: llama.cpp for GGUF files when its llama-bench is on the PATH; our own choice for compressed folders; else
    torch, which is what users of the dense model run.
    """
    if peer == LLAMA_CPP:
        return peer
    if peer != "auto":
        return choose_engine(path, peer)
    if str(path).endswith(".gguf"):
        return LLAMA_CPP if find_tool() is not None else "torch"
    return choose_engine(path) if open_model(path).kind == "gossamer" else "torch"
