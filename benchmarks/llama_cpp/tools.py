"""llama.cpp's tools beside llama-bench: files in its formats, many sequences at once, and logits."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy
import torch
from torch import Tensor

from benchmarks.llama_cpp.build import Build
from gossamer.checkpoint.source import open_model
from gossamer.errors import RunError
from gossamer.files import put_in_place


def quantize(build: Build, parent: Path, file: Path, kind: str) -> None:
    """Write `parent`, a GGUF file, as llama.cpp's file type `kind`; the file gets its name when it is complete."""
    partial = file.with_suffix(".partial")
    command = [str(build.tool("llama-quantize")), "--allow-requantize", str(parent), str(partial), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"llama-quantize could not write {file}: {last_line(done.stderr)}")
    put_in_place(partial, file)


def batch_command(
    build: Build, file: Path, threads: int, *, prompt: int, tokens: int, sequences: int
) -> list[str]:
    """Return the command that writes so many tokens of several sequences at once, behind prompts of their own."""
    command = [
        str(build.tool("llama-batched-bench")),
        "-m",
        str(file),
        "-t",
        str(threads),
        "-tb",
        str(threads),
    ]
    command += ["-c", str(sequences * (prompt + tokens)), "-npp", str(prompt), "-ntg", str(tokens)]
    return [*command, "-npl", str(sequences), "--output-format", "jsonl"]


def parse_batch(text: str) -> dict[str, float]:
    """Return the tokens/s of all sequences together, as "batch", out of what `llama-batched-bench` wrote as jsonl.

    Raises RunError for anything else.
    """
    lines = [line for line in text.splitlines() if line.startswith("{")]
    try:
        (line,) = lines
        rate = float(json.loads(line)["speed_tg"])
    except (ValueError, KeyError) as error:
        raise RunError(f"llama-batched-bench: expected one line of JSON, got {text[-200:]!r}") from error
    if rate <= 0:
        raise RunError(f"llama-batched-bench: expected a rate above 0, got {rate}")
    return {"batch": rate}


class Logits:
    """A GGUF file run by llama.cpp, as `evaluation.perplexity` takes models: ids_1L to logits [1, L, V] in float32."""

    dtype = "llama.cpp"
    """What a signature says about the arithmetic."""

    def __init__(self, build: Build, file: Path, length: int, threads: int):
        vocabulary = open_model(file).config.get_text_config().vocab_size
        self.config = SimpleNamespace(vocab_size=vocabulary)
        self._shape = (1, length, vocabulary)
        command = [str(build.tool("logits")), str(file), str(length), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, ids_1L: Tensor, use_cache: bool = False) -> SimpleNamespace:
        """Return an object with the logits of one window, read from an empty cache.

        Raises RunError if the process ends before it wrote them.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if tuple(ids_1L.shape) != self._shape[:2]:
            raise ValueError(f"ids_1L: expected {self._shape[:2]}, got {tuple(ids_1L.shape)}")
        self._process.stdin.write(ids_1L.numpy().astype(numpy.int32).tobytes())
        self._process.stdin.flush()
        wanted = 4 * self._shape[1] * self._shape[2]
        data = self._process.stdout.read(wanted)
        if len(data) != wanted:
            raise RunError(f"logits: {len(data)} of {wanted} bytes came; exit code {self._process.wait()}")
        return SimpleNamespace(
            logits=torch.frombuffer(bytearray(data), dtype=torch.float32).view(self._shape)
        )

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it gave no reason"])[-1]
