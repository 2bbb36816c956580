"""The native engine beside llama.cpp on SmolLM2, and on a 3B model of random weights: decode, prefill, batches.

    python -m benchmarks.engine [--work DIR] [--rounds N] [--threads N ...] [--levels NAME ...] [--no-large] [--fresh]
                                [--through COMMAND] [--out DIR] [--name NAME]

llama.cpp is built (`benchmarks/llama_cpp`) and timed by its own `llama-bench`. What is compared with what stands in
`benchmarks/engine_table.py`. Levels: see `benchmarks/visits.py`. Folders of the recipes are made in the work folder
when they are not there (with little text or none: the speed of a format does not depend on it), and so are llama.cpp's
files, quantized by llama.cpp from the demo's GGUF, and the 3B model (6 GB). Rounds are kept in WORK/rounds.json, under
what they depend on (our compiled module too): a run that was stopped goes on where it was; --fresh forgets them.
`--through` is put before each round (a minute or two), for a program that keeps the machine quiet. Writes NAME.json,
NAME.md and NAME.svg (engine; a run on another machine has another name). Progress on stderr.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.engine_page import as_page, title_of
from benchmarks.engine_table import LARGE_ROWS, PEERS, ROWS, Row, models_of
from benchmarks.large import prepare_large
from benchmarks.llama_cpp.build import Build, built
from benchmarks.llama_cpp.source import COMMIT, REQUIREMENT
from benchmarks.llama_cpp.tools import quantize
from benchmarks.plot import as_svg
from benchmarks.visits import Amounts, Series, builds_of, levels, measure, say
from gossamer.compression.compress import compress
from gossamer.data.assets import fetch_demo_assets
from gossamer.evaluation.speed.surroundings import cpu_model, num_cores, versions
from gossamer.files import write_json
from gossamer.recipe.reader import RECIPE_FOLDER, parse_recipe
from gossamer.recipe.recipe import Recipe

LARGE_AMOUNTS = Amounts(prompt=0, tokens=16, depth=16, batch=0, batch_tokens=0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description="Ours beside llama.cpp.")
    parser.add_argument("--work", type=Path, default=Path("build/engine-bench"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, num_cores()}))
    parser.add_argument("--levels", nargs="+", default=levels(), choices=levels())
    parser.add_argument("--no-large", action="store_true", help="leave the 3B model out")
    parser.add_argument("--fresh", action="store_true", help="forget the rounds that were measured before")
    parser.add_argument("--through", default="", metavar="COMMAND", help="put before each round")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--name", default="engine")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.fresh:
        (given.work / "rounds.json").unlink(missing_ok=True)
    amounts, series = Amounts(), Series(given.rounds, given.work / "rounds.json", given.through)
    models = prepare(given.work, built("best", say))
    runs = [
        run_of(ROWS, *models, level, threads, amounts, series)
        for level in given.levels
        for threads in given.threads
    ]
    large = []
    if not given.no_large:
        models = prepare_large(given.work, [row.recipe for row in LARGE_ROWS])
        large = [
            run_of(LARGE_ROWS, *models, level, num_cores(), LARGE_AMOUNTS, series) for level in given.levels
        ]
    report = {
        "command": "make bench",
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_model(),
        "cores": num_cores(),
        "versions": {**versions(), "llama.cpp": f"{COMMIT} (of {REQUIREMENT})"},
        "builds": builds_of(given.levels),
        "amounts": asdict(amounts),
        "rounds": given.rounds,
        "runs": runs,
        "large": large,
    }
    write(report, given.out, given.name)


def write(report: dict[str, Any], out: Path, name: str = "engine") -> None:
    run = max(report["runs"], key=lambda run: (run["level"] == "best", run["threads"]))
    write_json(out / f"{name}.json", report)
    (out / f"{name}.md").write_text(as_page(report), encoding="utf-8")
    (out / f"{name}.svg").write_text(
        as_svg(run, f"SmolLM2-135M, {report['cpu']}, {title_of(run)}"), encoding="utf-8"
    )
    say(f"wrote {out / name}.md")


# ---- what is measured ---------------------------------------------------------------------------------------


def prepare(work: Path, build: Build) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the folders of the recipes and llama.cpp's files; make what is not there."""
    assets = fetch_demo_assets(report=say)
    folders = {row.recipe: work / row.recipe for row in ROWS}
    for name, folder in folders.items():
        if not folder.exists():
            say(f"compressing {name}")
            text = str(assets.calibration_text)
            compress(
                str(assets.model_gguf), quick(name), out=folder, text=text, samples=4, length=128, resume=True
            )
    files = {name: work / f"{name}.gguf" for name in PEERS}
    for name, file in files.items():
        if not file.exists():
            say(f"quantizing {name}")
            quantize(build, assets.model_gguf, file, name)
    return folders, files


def quick(name: str) -> Recipe:
    """Return a shipped recipe without calibration where it gives all layers the same format.

    The bytes of such a format do not depend on which weights are kept, nor does its speed.
    """
    text = (RECIPE_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    if "average_bits" not in text and "scope: global" not in text:
        text = text.replace("method: admm", "method: magnitude").replace("method: gptq", "method: rtn")
    return parse_recipe(text, where=name)


def run_of(
    rows: Sequence[Row], folders: dict[str, Path], files: dict[str, Path], level: str, threads: int, amounts: Amounts,
    series: Series,
) -> dict[str, Any]:  # fmt: skip
    """Measure all models at a level with so many threads; return medians and ratios."""
    run = measure(folders, files, level, threads, amounts, series)
    sizes = {name: file.stat().st_size for name, file in files.items()}
    return {**run, "rounds": len(run["rounds"]), "models": models_of(rows, run["rounds"], run["isa"], sizes)}


if __name__ == "__main__":
    main()
