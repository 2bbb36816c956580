"""llama.cpp as a peer in measurements: its own `llama-bench`, a process for each round.

That is how llama.cpp times itself: weights repacked for the machine, a warm-up, then the prompt in one call, or one
token after the other, without the cost of a binding, a tokenizer or sampling.
"""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Self

from torch import Tensor

from gossamer.checkpoint.source import open_model
from gossamer.errors import RunError, UsageError
from gossamer.evaluation.speed.decode import DECODER, Round

TOOL = "llama-bench"


def find_tool() -> str | None:
    """Return the path of `llama-bench`, None if it is not on the PATH."""
    return shutil.which(TOOL)


def bench_command(
    tool: str | Path, file: str | Path, threads: int, *, prompt: int = 0, tokens: int = 0, depth: int = 0
) -> list[str]:
    """Return the command that reads a prompt of so many tokens, or decodes so many behind `depth` others, once."""
    command = [str(tool), "-m", str(file), "-t", str(threads), "-p", str(prompt), "-n", str(tokens)]
    return [*command, "-d", str(depth), "-r", "1", "-o", "json"]


def parse_bench(text: str) -> dict[str, float]:
    """Return tokens/s by "prefill" and "decode" out of what `llama-bench -o json` wrote.

    Raises RunError for anything else.
    """
    try:
        tests = json.loads(text)
        rates = {"prefill" if test["n_prompt"] else "decode": float(test["avg_ts"]) for test in tests}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"llama-bench: expected its figures as JSON, got {text[-200:]!r}") from error
    if not rates or not all(rate > 0 for rate in rates.values()):
        raise RunError(f"llama-bench: expected rates above 0, got {rates}")
    return rates


class LlamaBench:
    """A GGUF file run by llama.cpp."""

    kind = DECODER

    def __init__(self, path: str | Path, threads: int):
        tool = find_tool()
        if tool is None:
            raise UsageError(
                "--peer llama.cpp: there is no llama-bench on the PATH. Build llama.cpp, and put its build/bin there."
            )
        self._tool, self._path, self._threads = tool, path, threads
        text = open_model(path).config.get_text_config()
        self.config = SimpleNamespace(get_text_config=lambda: text)
        self.weight_bytes_per_token = Path(path).stat().st_size

    def eval(self) -> Self:
        return self

    def run_round(self, ids_1T: Tensor, tokens: int) -> Round:
        """Read a prompt as long as this one, then decode behind another one; the tokens are llama-bench's own."""
        prompt = ids_1T.shape[1]
        prefill = self._rate("prefill", prompt=prompt)
        decode = self._rate("decode", tokens=tokens, depth=prompt)
        return Round(prompt / prefill, tokens / decode)

    def _rate(self, what: str, **amounts: int) -> float:
        command = bench_command(self._tool, self._path, self._threads, **amounts)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
            raise RunError(f"{' '.join(command)}: exit code {done.returncode}, {reason}")
        return parse_bench(done.stdout)[what]
