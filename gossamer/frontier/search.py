"""The verb `search`: the best recipe for a budget, predicted from cheap measurements and verified by compressing.

    measure     the dense model, the kernels (for a latency), what the methods lose, each part's sensitivity
    predict     knapsacks over levels and parts, evolution at the budget
    verify      compress, evaluate, time; learn from it; predict again; until the time is up
    results     recipes, search.json, search.html
    recover     the chosen model, where that was asked for

Everything that was measured is kept in state.json in the folder, so that the same call goes on where it was stopped.
"""

import math
import time
from dataclasses import asdict, replace
from pathlib import Path

from gossamer.checkpoint.source import Source, open_model
from gossamer.compression.recovering import check_recovery, recovery_of
from gossamer.data.tokens import start_tokens
from gossamer.distributed.processes import Processes
from gossamer.errors import GossamerError, UsageError
from gossamer.files import write_json
from gossamer.frontier.budget import Budget, parse_budget
from gossamer.frontier.candidates import Candidates
from gossamer.frontier.costs import Costs
from gossamer.frontier.findings import Findings
from gossamer.frontier.folder import open_folder
from gossamer.frontier.job import Job
from gossamer.frontier.measure import learn, measure, predict
from gossamer.frontier.reach import require_reachable_size
from gossamer.frontier.record import Candidate, Failed, Predicted, Record, Verified
from gossamer.frontier.recovered import recover_chosen
from gossamer.frontier.results import KEPT, RESULT, SearchResult, write_results
from gossamer.frontier.split import CALIBRATION_FILE
from gossamer.frontier.verify import discard, measure_dense, verify
from gossamer.progress import Progress, silent
from gossamer.recipe.recipe import Calibration
from gossamer.runtime.choose import choose_engine

DEFAULT_WINDOWS = 8
CANDIDATE = "candidate"
"""Folder of the model that is being verified."""


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
    recover_minutes: float | None = None,
    recover_steps: int | None = None,
    progress: Progress = silent,
) -> SearchResult:
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
        recover_minutes: at last recover the chosen model, on the text that calibrates, into `out`/recovered, for so
            long beside `minutes`; or recover_steps: for so many steps. The chosen model is then kept too.
        progress: called as the work goes on.

    Returns:
        The chosen recipe, whether it is within the budget, a verdict, the front and all points (docs/search.md).

    Raises:
        GossamerError: bad input, or a budget of size or latency that no recipe can meet; the message names the nearest.
    """
    started = time.monotonic()
    wanted, calibration = parse_budget(budget), _calibration(samples, length, seed)
    _check_limits(minutes, windows)
    calibrates = str(Path(out) / CALIBRATION_FILE)
    recovery = recovery_of(recover_minutes, recover_steps, calibrates, length, calibration.seed)
    source = open_model(model)
    _check_model(source, wanted, model)
    costs = Costs(source)
    require_reachable_size(costs, wanted)
    state, texts = open_folder(str(text), Path(out), _arguments(source, text, calibration, windows))
    job = Job(
        source=source, model=str(model), budget=wanted, calibration=calibration, windows=windows,
        seconds=60 * minutes, native=choose_engine(model) == "native", costs=costs, out=Path(out), state=state,
        texts=texts, progress=progress, started=started,
    )  # fmt: skip
    if recovery is None:
        return _search(job, keep)
    with Processes() as processes:
        check_recovery(source, recovery, processes, progress)
    result = _search(job, keep=True)
    result = replace(result, recovered=recover_chosen(job, result, recovery))
    write_json(job.out / RESULT, result.to_dict())
    return result


def _search(job: Job, keep: bool) -> SearchResult:
    """The search itself: measure, then predict and verify by turns until the time is up."""
    if "figures" not in job.state.section("dense"):
        dense = measure_dense(job.model, job.texts[1], job.windows, job.native, job.progress)
        job.state.put("dense", "figures", asdict(dense))
    findings = Findings(job.state, job.budget)
    proxy, problem = measure(job)
    learn(problem, findings)
    candidates = Candidates(job, proxy, problem, findings)
    notes: list[str] = []
    while (candidate := candidates.next()) is not None:
        seconds = candidates.expected_seconds(candidate.assignment)
        expected = findings.time_factor() * seconds
        if expected > job.seconds_left():
            notes.append(
                f"time is up: verifying '{candidate.name}' would take about {expected:.0f} s, "
                f"{max(job.seconds_left(), 0):.0f} s were left"
            )
            break
        record = _verify(
            job, candidate, predict(problem, candidate.assignment), seconds, len(findings.records)
        )
        findings.add(record)
        if isinstance(record, Failed):
            notes.append(f"'{candidate.name}' could not be verified: {record.error}")
        else:
            learn(problem, findings)
            if keep and findings.chosen() is record:
                discard(job.out / KEPT)
                (job.out / CANDIDATE).rename(job.out / KEPT)
        discard(job.out / CANDIDATE)
    job.state.save()
    return write_results(job, problem, findings, notes)


def _verify(job: Job, candidate: Candidate, predicted: Predicted, seconds: float, done: int) -> Record:
    """Compress and measure a candidate in the folder `CANDIDATE`; `seconds` is what its parts should take."""

    def advance(what: str, count: int, total: int) -> None:
        job.progress(f"verifying {done + 1}: {what}", count, total)

    started = time.monotonic()
    try:
        figures = verify(
            job.model, job.recipe(candidate.name, candidate.assignment), job.out / CANDIDATE, job.texts,
            windows=job.windows, native=job.native, progress=advance,
        )  # fmt: skip
    except GossamerError as error:
        return Failed(candidate, predicted, str(error))
    return Verified(candidate, predicted, figures, (time.monotonic() - started) / seconds)


def _arguments(source: Source, text: str | Path, calibration: Calibration, windows: int) -> dict[str, object]:
    """What decides the measurements: only with the same a search goes on."""
    start = start_tokens(source.tokenizer())
    opened = {"start_tokens": list(start)} if start else {}  # windows that open otherwise have other figures
    return {
        **opened,
        "model": source.path.name,
        "weights": source.fingerprint(),
        "text": Path(text).name,
        "calibration": calibration.model_dump(),
        "windows": windows,
    }


def _calibration(samples: int | None, length: int | None, seed: int | None) -> Calibration:
    for key, value, smallest in (("samples", samples, 1), ("length", length, 8)):
        if value is not None and value < smallest:
            raise UsageError(f"--{key} {value}: expected at least {smallest}.")
    given = {"samples": samples, "length": length, "seed": seed}
    return Calibration.model_validate({key: value for key, value in given.items() if value is not None})


def _check_limits(minutes: float, windows: int) -> None:
    if not 0 < minutes < math.inf or windows < 1:
        raise UsageError(f"search: expected minutes > 0 and windows >= 1, got {minutes} and {windows}.")


def _check_model(source: Source, budget: Budget, model: str | Path) -> None:
    if source.kind == "gossamer":
        raise UsageError(f"{source.path} is compressed already. Give the dense parent instead.")
    if not source.reader.skeleton.can_generate() or source.config.is_encoder_decoder:
        raise UsageError(
            f"{source.path}: search compares predictions of the next token, and this is no causal model."
        )
    if source.tokenizer() is None:
        raise UsageError(f"{source.path}: the model has no tokenizer, so no text can be shown to it.")
    if budget.key == "latency" and choose_engine(model) != "native":
        raise UsageError(
            f"{source.path}: latency is that of the native engine, which has no plan for this model."
        )
