"""llama.cpp as a peer in measurements, through llama-cpp-python when it is installed (`gossamer[bench]`).

For speed the model runs as llama.cpp's own tools run it: weights repacked for the machine where it does that, the whole
prompt in one batch, flash attention as it decides, greedy decoding with the logits of the last token only.
"""

import importlib
import os
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import numpy
import torch
from torch import Tensor

from gossamer.errors import UsageError
from gossamer.evaluation.speed.decode import DECODER, Round
from gossamer.files import put_in_place

LARGEST_PROMPT = 2048


def llama_cpp() -> ModuleType | None:
    """Return the module, None if it is not installed."""
    try:
        return importlib.import_module("llama_cpp")
    except ImportError:
        return None


class LlamaCppModel:
    """A GGUF file run by llama.cpp."""

    kind = DECODER

    def __init__(self, path: str | Path, threads: int, context: int):
        module = llama_cpp()
        if module is None:
            raise UsageError("--peer llama.cpp needs llama-cpp-python: pip install 'gossamer[bench]'.")
        batch = min(context, LARGEST_PROMPT)
        self._llama: Any = module.Llama(
            str(path), n_ctx=context, n_batch=batch, n_ubatch=min(batch, 512), n_threads=threads,
            n_threads_batch=threads, verbose=False,
        )  # fmt: skip
        vocabulary = self._llama.n_vocab()
        text = SimpleNamespace(vocab_size=vocabulary, max_position_embeddings=context)
        self.config = SimpleNamespace(vocab_size=vocabulary, get_text_config=lambda: text)
        self.version = str(module.__version__)
        self.weight_bytes_per_token = Path(path).stat().st_size

    def eval(self) -> Self:
        return self

    def run_round(self, ids_1T: Tensor, tokens: int) -> Round:
        """Read the prompt and decode `tokens` tokens greedily."""
        self._llama.reset()
        started = time.perf_counter()
        token = self._read(ids_1T[0].tolist())
        prefill = time.perf_counter() - started
        started = time.perf_counter()
        for _ in range(tokens):
            token = self._read([token])
        return Round(prefill, time.perf_counter() - started)

    def _read(self, ids: list[int]) -> int:
        self._llama.eval(ids)
        logits = numpy.ctypeslib.as_array(self._llama._ctx.get_logits(), shape=(self._llama.n_vocab(),))
        return int(logits.argmax())


class LlamaCppLogits:
    """A GGUF file run by llama.cpp, as `evaluation.perplexity` takes models: ids_1L to logits [1, L, V] in float32."""

    dtype = "llama.cpp"
    """What a signature says about the arithmetic."""

    def __init__(self, path: str | Path, length: int, threads: int):
        module = llama_cpp()
        if module is None:
            raise UsageError(
                "perplexity of llama.cpp's models needs llama-cpp-python: pip install 'gossamer[bench]'."
            )
        self._llama: Any = module.Llama(
            str(path), n_ctx=length, n_batch=length, n_ubatch=min(length, 512), n_threads=threads,
            n_threads_batch=threads, logits_all=True, verbose=False,
        )  # fmt: skip
        self.config = SimpleNamespace(vocab_size=self._llama.n_vocab())

    def __call__(self, ids_1L: Tensor, use_cache: bool = False) -> SimpleNamespace:
        """Return an object with the logits of one window, read from an empty cache."""
        self._llama.reset()
        self._llama.eval(ids_1L[0].tolist())
        logits_LV = torch.from_numpy(
            numpy.asarray(self._llama.scores[: ids_1L.shape[1]], dtype=numpy.float32)
        )
        return SimpleNamespace(logits=logits_LV[None].clone())

    def close(self) -> None:
        """Give its memory back."""
        self._llama.close()


def quantize(parent: Path, path: Path, file_type: int) -> bool:
    """Let llama.cpp write `parent`, a GGUF file, in another of its types; False if it could not.

    The file gets its name when it is complete. Needs llama-cpp-python.
    """
    module = llama_cpp()
    if module is None:
        raise UsageError("llama.cpp's file types need llama-cpp-python: pip install 'gossamer[bench]'.")
    settings = module.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = file_type, True
    partial = path.with_suffix(".partial")
    failed = module.llama_model_quantize(os.fsencode(parent), os.fsencode(partial), settings)
    if not failed:
        put_in_place(partial, path)
    return not failed
