"""`gossamer demo`: the whole job on a real model, in minutes: compress SmolLM2-135M, measure, report, try it."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gossamer.checkpoint.manifest import read_manifest, remember
from gossamer.checkpoint.source import open_model
from gossamer.cli.show.tables import megabytes, number
from gossamer.compression.compress import compress
from gossamer.data.assets import fetch_demo_assets
from gossamer.errors import UsageError
from gossamer.evaluation.evaluate import evaluate
from gossamer.evaluation.kept import KeptModel
from gossamer.evaluation.result import Evaluation
from gossamer.evaluation.speed.bench import benchmark
from gossamer.evaluation.speed.result import Benchmark, ModelSpeed
from gossamer.progress import Progress
from gossamer.report.page import write_report
from gossamer.runtime.generate import write
from gossamer.runtime.settings import Asked

RECIPES = ("int4", "sparse50-int4")
SAMPLES = 12
"""Windows to calibrate on, for the recipes' own 32: the demo is to take minutes."""
NUM_WINDOWS = 10
PROMPT = "What is the ocean?"
ANSWER_TOKENS = 48
NOTES = (
    "perplexity: 10 windows of 1024 tokens of Wikipedia that calibration has not seen; one-shot, no retraining.",
    f"Calibrated on {SAMPLES} windows of 512 tokens, to take minutes; the recipes' own 32 keep more quality.",
    "Dense int4 keeps far more quality than one-shot 50 % sparsity at this size: recover it before you use it.",
    "The parent is a Q4_1 file, asymmetric groups of 32; int4 has symmetric ones of 64, which do not share its grid.",
)


@dataclass(frozen=True, slots=True)
class DemoRow:
    """A line of the demo's table."""

    name: str
    size_bytes: int
    perplexity: float | None
    kl_mean: float | None
    decode_tokens_per_s: float | None
    decode_ratio: float | None
    """This model / the dense one."""
    prefill_tokens_per_s: float
    peak_memory_bytes: int | None

    def __str__(self) -> str:
        return (
            f"{self.name}: {megabytes(self.size_bytes)}, perplexity {number(self.perplexity)}, "
            f"decode {number(self.decode_tokens_per_s, 1)} tokens/s"
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says to the demo's prompt."""

    name: str
    text: str
    tokens_per_s: float
    """From the first piece of text to the last; the tokens are those of the text."""


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo's table, and what to do next."""

    title: str
    rows: list[DemoRow]
    notes: list[str]
    report: str
    """The page."""
    noisy: bool
    """Other processes took time while speed was measured."""
    seconds: float
    prompt: str
    answers: list[Answer]
    next_commands: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def run(out: Path, progress: Progress) -> Demo:
    """Compress the demo's model by each of `RECIPES` under `out`, measure each beside the parent, write the report.

    Each row of the table is told as a notice as soon as it is known. Folders from an earlier run are replaced; anything
    else in `out` stays.

    Raises:
        GossamerError: no network and nothing cached, or `out` is a file.
    """
    started = time.monotonic()
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give a folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    assets = fetch_demo_assets(report=lambda line: progress(line, 0, 1))
    parent, text = str(assets.model_gguf), assets.evaluation_text
    step = _named(progress, "dense")
    dense = KeptModel(parent)
    quality = evaluate(dense, text=text, num_windows=NUM_WINDOWS, progress=step)
    speed = benchmark(parent, engine="torch", tokens=32, repeats=2, load_repeats=1, progress=step)
    rows = [_parent_row(open_model(parent).num_parameters, quality, speed.own)]
    progress(str(rows[0]), 0, 0)
    for recipe in RECIPES:
        step = _named(progress, recipe)
        folder = out / f"smollm2-135m-{recipe}"
        compress(
            parent, recipe, out=folder, text=str(assets.calibration_text), samples=SAMPLES, overwrite=True,
            progress=step,
        )  # fmt: skip
        quality = evaluate(folder, text=text, against=dense, num_windows=NUM_WINDOWS, progress=step)
        remember(folder, "evaluation", quality.to_dict())
        speed = benchmark(
            folder, against=parent, peer="torch", tokens=32, repeats=3, load_repeats=1, progress=step
        )
        remember(folder, "benchmark", speed.to_dict())
        rows.append(_row(recipe, quality, speed))
        progress(str(rows[-1]), 0, 0)
    page = out / "report.html"
    folders = [out / f"smollm2-135m-{recipe}" for recipe in RECIPES]
    write_report([read_manifest(folder) for folder in folders], page, names=RECIPES, overwrite=True)
    return Demo(
        title=f"SmolLM2-135M on {speed.cpu}, {speed.own.threads} threads",
        rows=rows,
        notes=list(NOTES),
        report=str(page),
        noisy=speed.noisy,
        seconds=time.monotonic() - started,
        prompt=PROMPT,
        answers=[_answer(recipe, folder) for recipe, folder in zip(RECIPES, folders, strict=True)],
        next_commands=[
            f'gossamer generate {folders[0]} "Tell me about rivers."',
            "gossamer compress MODEL --recipe int4 --text TEXT --out small",
            "gossamer evaluate small --against MODEL --text OTHER_TEXT",
        ],
    )


def _named(progress: Progress, recipe: str) -> Progress:
    def step(what: str, done: int, total: int) -> None:
        progress(f"{recipe}: {what}", done, total)

    return step


def _answer(name: str, folder: Path) -> Answer:
    """Let a model answer the prompt, always by the most likely token."""
    tokenizer = open_model(folder).tokenizer()
    assert tokenizer is not None
    pieces = write(folder, PROMPT, asked=Asked(max_tokens=ANSWER_TOKENS, temperature=0.0)).pieces
    first = next(pieces, "")
    started = time.perf_counter()
    rest = "".join(pieces)
    seconds = time.perf_counter() - started
    tokens = len(tokenizer(rest, add_special_tokens=False)["input_ids"])
    return Answer(name, (first + rest).strip(), tokens / seconds)


def _parent_row(num_parameters: int, quality: Evaluation, speed: ModelSpeed) -> DemoRow:
    return DemoRow(
        name="dense bf16",
        size_bytes=2 * num_parameters,
        perplexity=quality.perplexity,
        kl_mean=0.0,
        decode_tokens_per_s=speed.decode_tokens_per_s,
        decode_ratio=1.0,
        prefill_tokens_per_s=speed.prefill_tokens_per_s,
        peak_memory_bytes=speed.peak_memory_bytes,
    )


def _row(recipe: str, quality: Evaluation, speed: Benchmark) -> DemoRow:
    assert speed.ratios is not None
    decode = speed.ratios.decode
    return DemoRow(
        name=recipe,
        size_bytes=quality.size_bytes,
        perplexity=quality.perplexity,
        kl_mean=quality.kl_mean,
        decode_tokens_per_s=speed.own.decode_tokens_per_s,
        decode_ratio=None if decode is None else decode.ratio,
        prefill_tokens_per_s=speed.own.prefill_tokens_per_s,
        peak_memory_bytes=speed.own.peak_memory_bytes,
    )
