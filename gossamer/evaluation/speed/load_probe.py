"""Load one model in a process of its own, run it a little, and print what that took as JSON.

    python -m gossamer.evaluation.speed.load_probe PATH DTYPE
        [--threads T] [--prompt-tokens N] [--tokens N] [--activations A] [--engine E]

`load_seconds` is the time of opening the model alone: Python, torch and transformers are imported before the
clock starts. `peak_memory_bytes` is the largest resident size from then on, through loading, a prompt and a
few decoded tokens; it contains the interpreter and the libraries, which `baseline_bytes` (resident after
the imports) shows.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass

import transformers

from gossamer.errors import GossamerError
from gossamer.evaluation.speed.decode import run_round
from gossamer.evaluation.speed.memory import PeakMemory, usage
from gossamer.evaluation.speed.prompt import random_prompt
from gossamer.evaluation.speed.runners import DTYPES, open_runner
from gossamer.evaluation.speed.threads import all_threads


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What loading a model takes. Memory in bytes; None where the system does not tell."""

    load_seconds: float
    peak_memory_bytes: int
    """Largest resident size."""
    peak_anonymous_bytes: int | None = None
    peak_file_bytes: int | None = None
    baseline_bytes: int | None = None
    """Resident after the imports, before loading."""


def probe(
    path: str, dtype: str, threads: int, prompt_tokens: int, tokens: int, activations: str, engine: str
) -> LoadFigures:
    """Load `path`, run it, and return the figures."""
    _ = transformers.AutoModelForCausalLM, transformers.AutoTokenizer  # imported by name, before the clock
    before = usage()
    with all_threads(threads), PeakMemory() as memory:
        started = time.perf_counter()
        model = open_runner(path, engine, dtype, activations, threads)
        load_seconds = time.perf_counter() - started
        model.eval()
        run_round(model, random_prompt(model, prompt_tokens), tokens)
    return LoadFigures(
        load_seconds=load_seconds,
        peak_memory_bytes=memory.peak_resident_bytes,
        peak_anonymous_bytes=memory.peak_anonymous_bytes,
        peak_file_bytes=memory.peak_file_bytes,
        baseline_bytes=None if before is None else before.resident,
    )


def main() -> int:
    """Read the command line, print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m gossamer.evaluation.speed.load_probe")
    parser.add_argument("path")
    parser.add_argument("dtype", choices=DTYPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--activations", default="float")
    parser.add_argument("--engine", default="torch")
    given = parser.parse_args()
    try:
        figures = probe(
            given.path, given.dtype, given.threads, given.prompt_tokens, given.tokens, given.activations,
            given.engine,
        )  # fmt: skip
    except GossamerError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(asdict(figures)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
