"""The truth about a recipe: compress by it, evaluate and time the result as users will run it."""

import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gossamer.checkpoint.manifest import remember
from gossamer.compression.compress import compress
from gossamer.evaluation.evaluate import evaluate
from gossamer.evaluation.speed.native import NativeModel
from gossamer.evaluation.speed.prompt import random_prompt
from gossamer.frontier.state import State
from gossamer.progress import Progress
from gossamer.recipe.recipe import Recipe

PROMPT, TOKENS, ROUNDS = 32, 32, 5
PASSES = 8
"""What observing costs besides solving, in forward passes over the calibration text."""
FIRST_FACTOR, MARGIN = 1.3, 1.15
"""How wrong an estimate of time may be, before a run was timed and after."""


def verify(
    model: str | Path,
    recipe: Recipe,
    folder: Path,
    texts: tuple[Path, Path],
    *,
    windows: int,
    native: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Write the model to `folder` (replacing it) and return what was measured on it.

    Args:
        texts: what to calibrate on, and what to judge by.
        native: time a decoded token on the native engine.
    """
    started = time.monotonic()
    made = compress(model, recipe, out=folder, text=str(texts[0]), overwrite=True, progress=progress)
    compressed = time.monotonic()
    figures = evaluate(folder, text=texts[1], num_windows=windows, progress=progress)
    remember(folder, "evaluation", figures)
    return {
        "size_bytes": made.manifest["size"]["total_bytes"],
        "weights_bytes": made.manifest["size"]["weights_bytes"],
        "perplexity": figures["perplexity"],
        "perplexity_signature": figures["perplexity_signature"],
        "engine": figures["engine"],
        "latency_ms": decode_ms(folder) if native else None,
        "compress_seconds": compressed - started,
        "seconds": time.monotonic() - started,
    }


def decode_ms(path: str | Path) -> float:
    """Return milliseconds for one decoded token on the native engine: the median of a few short rounds."""
    model = NativeModel.open(path, "int8")
    prompt = random_prompt(model, PROMPT)
    rounds = [model.run_round(prompt, TOKENS).decode for _ in range(ROUNDS + 1)]
    return 1e3 * statistics.median(each for each in rounds[1:] if each is not None) / TOKENS


def measure_dense(
    model: str | Path, held_out: Path, windows: int, native: bool, progress: Progress
) -> dict[str, Any]:
    """Return the figures of the dense parent by the same protocol."""
    started = time.monotonic()
    figures = evaluate(model, text=held_out, num_windows=windows, progress=progress)
    taken = time.monotonic() - started
    return {
        "size_bytes": figures["size_bytes"],
        "perplexity": figures["perplexity"],
        "perplexity_signature": figures["perplexity_signature"],
        "latency_ms": decode_ms(model) if native else None,
        "evaluate_seconds": taken,
    }


def expected_seconds(
    assignment: Mapping[str, str],
    num_weights: Mapping[str, int],
    tokens: int,
    state: State,
    solve_seconds: Callable[[str], float],
) -> float:
    """Return how long `verify` takes by its parts: solving, observing, evaluating."""
    solving = sum(num_weights[name] * solve_seconds(option) for name, option in assignment.items())
    observing = PASSES * tokens * float(state.section("speed")["forward_seconds_per_token"])
    return solving + observing + float(state.section("dense")["figures"]["evaluate_seconds"])


def time_factor(state: State) -> float:
    """Return what to multiply an expectation by: how much longer the slowest run so far took, and a margin."""
    known = [each["time_factor"] for each in state.section("verified").values() if "time_factor" in each]
    return MARGIN * max(known) if known else FIRST_FACTOR


def discard(folder: Path) -> None:
    """Remove a candidate."""
    shutil.rmtree(folder, ignore_errors=True)
