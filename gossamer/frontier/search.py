"""The verb `search`: the best recipe for a budget, predicted from cheap measurements and verified by compressing.

    measure     the dense model, the kernels (for a latency), what the methods lose, each part's sensitivity
    predict     knapsacks over levels and parts, evolution at the budget
    verify      compress, evaluate, time; learn from it; predict again; until the time is up
    tell        recipes, search.json, search.html

Everything that was measured is kept in state.json in the folder, so that the same call goes on where it was stopped.
"""

import math
from pathlib import Path
from typing import Any

from gossamer.checkpoint.source import Source, open_model
from gossamer.errors import UsageError
from gossamer.frontier.budget import Budget, parse_budget
from gossamer.frontier.candidates import Hunt
from gossamer.frontier.results import tell
from gossamer.progress import Progress, silent
from gossamer.recipe.recipe import Calibration
from gossamer.runtime.choose import choose_engine

DEFAULT_WINDOWS = 8


def search(
    model: str | Path,
    *,
    budget: str,
    text: str | Path,
    out: str | Path,
    minutes: float = 30.0,
    samples: int | None = None,
    length: int | None = None,
    seed: int | None = None,
    windows: int = DEFAULT_WINDOWS,
    keep: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Search for the best recipe within a budget, and write recipes, figures and a page to `out`.

    Args:
        model: folder with safetensors, GGUF file, or hub id; a causal model.
        budget: `size=60MB` (of the whole folder), `latency=5ms` (for one decoded token), `perplexity=+5%`.
        text: one source; three quarters calibrate, the rest judges.
        out: the folder to write. If a search was begun there with the same arguments, it goes on.
        minutes: no verification is begun that would not be finished by then. What is found until then is kept.
        samples, length, seed: calibration, as in `compress`.
        windows: held-out windows that perplexity is measured on.
        keep: keep the chosen model as `out`/model.
        progress: called as the work goes on.

    Returns:
        JSON-able: `chosen`, `reached`, `verdict`, `front`, `points` (docs/search.md).

    Raises:
        GossamerError: bad input, or a budget of size or latency that no recipe can meet; the message names the nearest.
    """
    wanted = parse_budget(budget)
    if not 0 < minutes < math.inf or windows < 1:
        raise UsageError(f"search: expected minutes > 0 and windows >= 1, got {minutes} and {windows}.")
    given = {"samples": samples, "length": length, "seed": seed}
    calibration = _calibration(given)
    source = open_model(model)
    _check(source, wanted, model)
    hunt = Hunt(source, str(model), wanted, calibration, windows, minutes, progress)
    hunt.open(str(text), Path(out))
    hunt.measure()
    hunt.verify_all(keep)
    return tell(hunt)


def _calibration(given: dict[str, int | None]) -> Calibration:
    for key, smallest in (("samples", 1), ("length", 8)):
        value = given[key]
        if value is not None and value < smallest:
            raise UsageError(f"--{key} {value}: expected at least {smallest}.")
    return Calibration.model_validate({key: value for key, value in given.items() if value is not None})


def _check(source: Source, budget: Budget, model: str | Path) -> None:
    if source.kind == "gossamer":
        raise UsageError(f"{source.path} is compressed already. Give the dense parent instead.")
    skeleton: Any = source.reader.skeleton
    if not skeleton.can_generate() or source.config.is_encoder_decoder:
        raise UsageError(
            f"{source.path}: search compares predictions of the next token, and this is no causal model."
        )
    if source.tokenizer() is None:
        raise UsageError(f"{source.path}: the model has no tokenizer, so no text can be shown to it.")
    if budget.key == "latency" and choose_engine(model) != "native":
        raise UsageError(
            f"{source.path}: latency is that of the native engine, which has no plan for this model."
        )
