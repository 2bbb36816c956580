"""`gossamer demo`: the whole job on a real model, in minutes: compress SmolLM2-135M, measure, report."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gossamer.checkpoint.manifest import read_manifest, remember
from gossamer.checkpoint.source import open_model
from gossamer.compression.compress import compress
from gossamer.data.assets import fetch_demo_assets
from gossamer.errors import UsageError
from gossamer.evaluation.evaluate import evaluate
from gossamer.evaluation.result import Evaluation
from gossamer.evaluation.speed.bench import benchmark
from gossamer.evaluation.speed.result import Benchmark
from gossamer.progress import Progress
from gossamer.report.page import write_report

RECIPES = ("int4", "sparse50-int4")
NUM_WINDOWS = 10
NOTES = (
    "perplexity: 10 windows of 1024 tokens of Wikipedia that calibration has not seen; one-shot, no retraining.",
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


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo's table."""

    title: str
    rows: list[DemoRow]
    notes: list[str]
    report: str
    """The page."""
    noisy: bool
    """Other processes took time while speed was measured."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def run(out: Path, progress: Progress) -> Demo:
    """Compress the demo's model by each of `RECIPES` under `out`, measure each beside the parent, write the report.

    Folders from an earlier run are replaced; anything else in `out` stays.

    Raises:
        GossamerError: no network and nothing cached, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give a folder with --out.")
    out.mkdir(parents=True, exist_ok=True)
    assets = fetch_demo_assets(report=lambda line: progress(line, 0, 1))
    parent = str(assets.model_gguf)
    rows: list[DemoRow] = []
    for recipe in RECIPES:
        folder = out / f"smollm2-135m-{recipe}"
        step = _named(progress, recipe)
        compress(parent, recipe, out=folder, text=str(assets.calibration_text), overwrite=True, progress=step)
        quality = evaluate(
            folder, text=assets.evaluation_text, against=parent, num_windows=NUM_WINDOWS, progress=step
        )
        remember(folder, "evaluation", quality.to_dict())
        speed = benchmark(folder, against=parent, peer="torch", tokens=32, repeats=3, progress=step)
        remember(folder, "benchmark", speed.to_dict())
        if not rows:
            rows.append(_parent_row(open_model(parent).num_parameters, quality, speed))
        rows.append(_row(recipe, quality, speed))
    page = out / "report.html"
    manifests = [read_manifest(out / f"smollm2-135m-{recipe}") for recipe in RECIPES]
    write_report(manifests, page, names=RECIPES, overwrite=True)
    title = f"SmolLM2-135M on {speed.cpu}, {speed.own.threads} threads"
    return Demo(title, rows, list(NOTES), str(page), speed.noisy)


def _named(progress: Progress, recipe: str) -> Progress:
    def step(what: str, done: int, total: int) -> None:
        progress(f"{recipe}: {what}", done, total)

    return step


def _parent_row(num_parameters: int, quality: Evaluation, speed: Benchmark) -> DemoRow:
    assert speed.against is not None
    return DemoRow(
        name="dense bf16",
        size_bytes=2 * num_parameters,
        perplexity=quality.parent_perplexity,
        kl_mean=0.0,
        decode_tokens_per_s=speed.against.decode_tokens_per_s,
        decode_ratio=1.0,
        prefill_tokens_per_s=speed.against.prefill_tokens_per_s,
        peak_memory_bytes=speed.against.peak_memory_bytes,
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
