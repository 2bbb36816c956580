"""What recovery gives back: recipes before and after `gossamer recover`, in one table.

    python -m benchmarks.recovery [--only NAME ...] [--minutes M | --steps N] [--train MODE] [--through COMMAND]
                                  [--work DIR] [--out DIR]

SmolLM2-135M. Each row's recipe is compressed once and recovered with the demo's calibration text, by the divergence
from the dense parent alone; perplexity and KL beside the parent are measured on the demo's evaluation text, which
neither has seen. `--through` is put before each recovery (a command that keeps the machine quiet). Folders and figures
stay in the work folder: what is there is not made again, and a run that was stopped goes on. Writes recovery.json, .md
and .svg.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gossamer
from benchmarks.quality import judged, progress_of
from benchmarks.recovery_page import as_page, as_svg
from gossamer.checkpoint.manifest import read_manifest
from gossamer.data.assets import fetch_demo_assets
from gossamer.evaluation.speed.surroundings import cpu_model, versions
from gossamer.files import write_json
from gossamer.recipe.reader import load_recipe, parse_recipe
from gossamer.training.student import MODES

LESS = """steps:
  - {{layers: "*", method: admm, sparsity: {0}, scope: global}}
  - {{layers: "*", method: gptq, bits: 4, average_bits: 4.5, group_size: 64}}
  - {{layers: [embeddings, head], method: rtn, bits: 6, group_size: 32}}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A recipe: shipped, or its text; and what its recovery has to reach, as a ratio to the parent's perplexity."""

    name: str
    target: float | None = None
    recipe: str | None = None


ROWS = (
    Row("sparse50-best", 1.20),
    Row("sparse50-int4-best", 1.25),
    Row("sparse50-int4"),
    Row("nm8of16-int4-best", 1.30),
    Row("sparse70-best", 1.70),
    Row("int3-best", 1.07),
    Row("nm2of4-int4", 1.45),
    Row("nm4of8-int4", 1.35),
    Row("nm4of16-int4"),
    Row("int4"),
    Row("sparse40-int4", None, LESS.format(0.4)),
    Row("sparse30-int4", None, LESS.format(0.3)),
)
WINDOWS = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=[row.name for row in ROWS], help="rows to measure")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--steps", type=int, help="in place of minutes")
    parser.add_argument("--train", choices=MODES, default="all", help="what recover trains")
    parser.add_argument("--through", default="", metavar="COMMAND", help="put before each recovery")
    parser.add_argument("--work", type=Path, default=Path("build/recovery"))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    store = given.work / "results.json"
    results: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
    for row in ROWS:
        if row.name not in results and (not given.only or row.name in given.only):
            results[row.name] = measured(row, given)
            write_json(store, results)
    record = {
        "cpu": cpu_model(),
        "versions": versions(),
        "command": "python -m benchmarks.recovery",
        "targets": {row.name: row.target for row in ROWS},
        "results": {row.name: results[row.name] for row in ROWS if row.name in results},
    }
    write_json(given.out / "recovery.json", record)
    (given.out / "recovery.md").write_text(as_page(record), encoding="utf-8")
    (given.out / "recovery.svg").write_text(as_svg(record), encoding="utf-8")


def measured(row: Row, given: argparse.Namespace) -> dict[str, Any]:
    """Compress, recover, and evaluate both folders."""
    small, recovered = given.work / row.name, given.work / f"{row.name}-recovered"
    assets = fetch_demo_assets()
    parent, text = assets.model_gguf, assets.calibration_text
    if not small.exists():
        recipe = load_recipe(row.name) if row.recipe is None else parse_recipe(row.recipe, row.name)
        gossamer.compress(
            parent, recipe, out=small, text=str(text), resume=True, progress=progress_of(row.name)
        )
    if not recovered.exists():
        effort = ["--minutes", f"{given.minutes:g}"] if given.steps is None else ["--steps", f"{given.steps}"]
        subprocess.run(
            [*given.through.split(), sys.executable, "-m", "gossamer", "recover", small, "--parent", parent,
             "--text", text, *effort, "--train", given.train, "--out", recovered, "--resume"],
            check=True,
        )  # fmt: skip
    manifest = read_manifest(recovered)
    return {
        "recipe": manifest["recipe"],
        "size": manifest["size"],
        "compress": manifest["run"],
        "recovery": manifest["recovery"][-1],
        "before": quality(small, parent, assets.evaluation_text),
        "after": quality(recovered, parent, assets.evaluation_text),
    }


def quality(folder: Path, parent: Path, text: Path) -> dict[str, Any]:
    """Return perplexity and KL beside the parent."""
    found = judged(folder.name, folder, parent, text, WINDOWS)
    wanted = (
        "perplexity", "perplexity_ratio", "parent_perplexity", "kl_mean", "size_bytes", "perplexity_signature"
    )  # fmt: skip
    return {key: found[key] for key in wanted}


if __name__ == "__main__":
    main()
