"""The truth about a recipe: compress by it, evaluate and time the result as users will run it."""

import shutil
import statistics
import time
from pathlib import Path

from gossamer.checkpoint.manifest import remember
from gossamer.compression.compress import compress
from gossamer.evaluation.evaluate import evaluate
from gossamer.evaluation.speed.native import NativeModel
from gossamer.evaluation.speed.prompt import random_prompt
from gossamer.frontier.record import DenseFigures, Figures
from gossamer.progress import Progress
from gossamer.recipe.recipe import Recipe

PROMPT, TOKENS, ROUNDS = 32, 32, 5


def verify(
    model: str | Path,
    recipe: Recipe,
    folder: Path,
    texts: tuple[Path, Path],
    *,
    windows: int,
    native: bool,
    progress: Progress,
) -> Figures:
    """Write the model to `folder` (replacing it) and return what was measured on it.

    Args:
        texts: what to calibrate on, and what to judge by.
        native: time a decoded token on the native engine.
    """
    started = time.monotonic()
    made = compress(model, recipe, out=folder, text=str(texts[0]), overwrite=True, progress=progress)
    compressed = time.monotonic()
    quality = evaluate(folder, text=texts[1], num_windows=windows, progress=progress)
    remember(folder, "evaluation", quality.to_dict())
    assert quality.perplexity is not None  # a causal model
    assert quality.perplexity_signature is not None
    return Figures(
        size_bytes=made.manifest["size"]["total_bytes"],
        weights_bytes=made.manifest["size"]["weights_bytes"],
        perplexity=quality.perplexity,
        perplexity_signature=quality.perplexity_signature,
        engine=quality.engine,
        latency_ms=decode_ms(folder) if native else None,
        compress_seconds=compressed - started,
        seconds=time.monotonic() - started,
    )


def decode_ms(path: str | Path) -> float:
    """Return milliseconds for one decoded token on the native engine: the median of a few short rounds."""
    model = NativeModel.open(path, "int8")
    prompt = random_prompt(model, PROMPT)
    rounds = [model.run_round(prompt, TOKENS).decode for _ in range(ROUNDS + 1)]
    return 1e3 * statistics.median(each for each in rounds[1:] if each is not None) / TOKENS


def measure_dense(
    model: str | Path, held_out: Path, windows: int, native: bool, progress: Progress
) -> DenseFigures:
    """Return the figures of the dense parent by the same protocol."""
    started = time.monotonic()
    quality = evaluate(model, text=held_out, num_windows=windows, progress=progress)
    taken = time.monotonic() - started
    assert quality.perplexity is not None  # a causal model
    assert quality.perplexity_signature is not None
    return DenseFigures(
        size_bytes=quality.size_bytes,
        perplexity=quality.perplexity,
        perplexity_signature=quality.perplexity_signature,
        latency_ms=decode_ms(model) if native else None,
        evaluate_seconds=taken,
    )


def discard(folder: Path) -> None:
    """Remove a candidate."""
    shutil.rmtree(folder, ignore_errors=True)
