"""What each pattern of zeros costs in quality, beside what it gives in speed: one pruner, one text, one grid.

    python -m benchmarks.patterns [--work FOLDER] [--windows N] [--out DIR]

SmolLM2-135M, each layer pruned by ADMM in one shot to the pattern and rounded to 4 bits by GPTQ (groups of 64),
embeddings and head in 8 bits, 8 windows of 512 tokens of calibration text; perplexity and KL beside the parent on
articles that calibration has not seen. Speeds are those of the formats in engine-avx2.json and engine.json, measured by
`make bench`. What has been measured already (WORK/patterns.json) is not measured again.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.heading import heading
from benchmarks.quality import measure
from gossamer.data.assets import fetch_demo_assets
from gossamer.evaluation.speed.surroundings import cpu_model, versions
from gossamer.files import write_json
from gossamer.recipe.reader import parse_recipe

ENGINES = ("engine-avx2.json", "engine.json")
"""Reports of `make bench` on two machines."""
BEFORE = "calibration: {samples: 8, length: 512}\nsteps:\n"
AFTER = """  - {layers: '*', method: gptq, bits: 4, group_size: 64}
  - {layers: [embeddings, head], method: rtn, bits: 8}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A pattern, and the row of engine.json whose format it has."""

    name: str
    settings: str
    """Of ADMM."""
    engine: str | None
    bits: str
    """A weight with its place, without scales, as the format that is fast for it stores it."""


ROWS = (
    Row("unstructured, 50 %", "sparsity: 0.5", "sparse50-int4", "3"),
    Row("pairs, 37.5 %", "pattern: 'block 1x2', sparsity: 0.375", None, "3"),
    Row("8:16", "pattern: '8:16'", "nm8of16-int4", "4"),
    Row("4:8", "pattern: '4:8'", "nm4of8-int4", "3"),
    Row("2:4", "pattern: '2:4'", "nm2of4-int4", "3"),
    Row("4:16", "pattern: '4:16'", "nm4of16-int4", "2"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.patterns")
    parser.add_argument("--work", type=Path, default=Path("build/patterns"))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--windows", type=int, default=16)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    store = given.work / "patterns.json"
    results: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
    assets = fetch_demo_assets()
    texts = (assets.calibration_text, assets.evaluation_text)
    settings = argparse.Namespace(work=given.work, windows=given.windows, quality_only=True)
    for row in ROWS:
        if row.name not in results:
            prune = f"  - {{layers: '*', method: admm, {row.settings}}}\n"
            recipe = parse_recipe(BEFORE + prune + AFTER, row.name)
            results[row.name] = measure(row.name, recipe, assets.model_gguf, texts, settings)
            write_json(store, results)
    record = {
        "cpu": cpu_model(),
        "versions": versions(),
        "command": f"python -m benchmarks.patterns --windows {given.windows}",
        "results": results,
        "speeds": [speed for name in ENGINES for speed in speeds(given.out / name)],
    }
    write_json(given.out / "patterns.json", record)
    (given.out / "patterns.md").write_text(as_markdown(record), encoding="utf-8")


def speeds(file: Path) -> list[dict[str, Any]]:
    """Return, for each run at the best level in a report of `make bench`, decoding over our int4 by recipe."""
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else []
    return [
        {
            "title": f"{run['isa']}, {run['threads']} thread{'s' if run['threads'] > 1 else ''}",
            "over_int4": {
                model["name"]: model["ratios"]["base"]["ratio"]
                for model in run["models"]
                if "base" in model.get("ratios", {})
            },
        }
        for run in runs
        if run["level"] == "best"
    ]


def as_markdown(record: dict[str, Any]) -> str:
    runs = record["speeds"]
    first = next(iter(record["results"].values()))["evaluation"]
    lines = [
        "# What each pattern costs, and what it gives",
        "",
        heading(record)
        + ". SmolLM2-135M, one-shot: ADMM, then GPTQ in 4 bits (groups of 64), embeddings and head in 8 bits, 8 "
        "windows of 512 tokens. Bits: of a weight and its place, without scales. Speed: decoding over our int4, from "
        "[engine-avx2.md](engine-avx2.md) and [engine.md](engine.md).",
        "",
        "| pattern | bits | perplexity | of dense | KL | size, MB | "
        + " | ".join(run["title"] for run in runs)
        + " | date |",
        "|---" * (7 + len(runs)) + "|",
    ]
    for row in ROWS:
        if row.name in record["results"]:
            lines.append(line(row, record["results"][row.name], runs))
    lines += [
        "",
        f"Dense parent: perplexity {first['parent_perplexity']:.2f}. Signature: `{first['perplexity_signature']}`.",
    ]
    return "\n".join(lines) + "\n"


def line(row: Row, each: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    quality = each["evaluation"]
    figures = [
        row.bits,
        f"{quality['perplexity']:.2f}",
        f"{quality['perplexity_ratio']:.3f}x",
        f"{quality['kl_mean']:.3f}",
        f"{quality['size_bytes'] / 1e6:.1f}",
        *(
            f"{run['over_int4'][row.engine]:.2f}x" if row.engine in run["over_int4"] else "not measured"
            for run in runs
        ),
        each["date"],
    ]
    return f"| {row.name} | " + " | ".join(figures) + " |"


if __name__ == "__main__":
    main()
