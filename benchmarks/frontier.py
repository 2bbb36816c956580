"""llama.cpp's points and ours: perplexity, size and decoding speed in one table, and whether each point is beaten.

    python -m benchmarks.frontier [--work DIR] [--windows N] [--rounds N] [--threads N ...] [--levels NAME ...]
                                  [--quality-only] [--fresh] [--through COMMAND] [--out DIR]
    python -m benchmarks.frontier --draw [--out DIR]

Five files are quantized by llama.cpp, built by `benchmarks/llama_cpp`, from the demo's GGUF. Each has an answer: a
Gossamer recipe (`ANSWERS`, a file in benchmarks/frontier/ or a shipped name) that has to have no larger perplexity, no
larger size, and at least twice the decoding speed, at every level and number of threads. Perplexity of both is measured
on the same windows by the same code: llama.cpp gives logits, and `gossamer.evaluation.quality.perplexity` makes the
figure. Speed is measured as in `benchmarks/engine.py`, whose `--fresh` and `--through` this has too. What a folder was
measured at is kept in WORK/quality.json until its recipe or the windows change. Writes frontier.json, .md and .svg, and
the results of the README. Progress on stderr. `--draw` measures nothing and writes the pages again from the
frontier.json that is there.
"""

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.frontier_page import Figures, as_page, compare, with_results
from benchmarks.frontier_picture import as_svg
from benchmarks.llama_cpp.build import Build, built
from benchmarks.llama_cpp.source import COMMIT, REQUIREMENT
from benchmarks.llama_cpp.tools import Logits, quantize
from benchmarks.visits import Amounts, Series, builds_of, levels, measure, say
from gossamer.checkpoint.source import open_model
from gossamer.compression.compress import compress
from gossamer.data.assets import fetch_demo_assets
from gossamer.data.deduplicate import deduplicate
from gossamer.data.sources import read_documents
from gossamer.data.tokens import Windows, tokenize, windows
from gossamer.evaluation.evaluate import DEFAULT_LENGTH
from gossamer.evaluation.quality.perplexity import perplexity
from gossamer.evaluation.speed.native import NativeModel
from gossamer.evaluation.speed.surroundings import cpu_model, num_cores, versions
from gossamer.files import write_json
from gossamer.recipe.reader import load_recipe

POINTS = ("Q8_0", "Q4_K_M", "Q3_K_M", "Q4_0", "Q2_K")
"""llama.cpp's file types."""
ANSWERS = {
    "Q8_0": "stored-e8",
    "Q4_K_M": "stored-e8",
    "Q3_K_M": "stored-e6",
    "Q4_0": "stored-e6",
    "Q2_K": "stored-e5",
}
"""Which recipe answers which point."""
EXTRA = ("int4-best", "int4", "sparse50-int4", "nm2of4-int4", "nm4of16-int4")
"""Recipes that are measured too if their folders are in the work folder already; they cost minutes each."""
RECIPES = Path(__file__).parent / "frontier"
README = Path(__file__).parents[1] / "README.md"
AMOUNTS = Amounts(prompt=0, batch=0, batch_tokens=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="llama.cpp's points and ours.")
    parser.add_argument("--work", type=Path, default=Path("build/frontier"))
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, num_cores()}))
    parser.add_argument("--levels", nargs="+", default=levels(), choices=levels())
    parser.add_argument("--quality-only", action="store_true", help="leave speed out")
    parser.add_argument("--fresh", action="store_true", help="forget the rounds that were measured before")
    parser.add_argument("--through", default="", metavar="COMMAND", help="put before each round")
    parser.add_argument("--draw", action="store_true", help="write the pages again from frontier.json")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    given = parser.parse_args()
    if not given.draw:
        given.out.mkdir(parents=True, exist_ok=True)
        write_json(given.out / "frontier.json", measured(given))
    write_pages(json.loads((given.out / "frontier.json").read_text(encoding="utf-8")), given.out, README)


def measured(given: argparse.Namespace) -> Figures:
    """Make what is missing, and measure everything."""
    given.work.mkdir(parents=True, exist_ok=True)
    if given.fresh:
        (given.work / "rounds.json").unlink(missing_ok=True)
    build = built("best", say)
    assets = fetch_demo_assets(report=say)
    files = {name: quantized(build, assets.model_gguf, name, given.work) for name in POINTS}
    folders = {
        name: answered(name, assets.model_gguf, assets.calibration_text, given.work)
        for name in dict.fromkeys(ANSWERS.values())
    }
    folders |= {name: given.work / name for name in EXTRA if (given.work / name).is_dir()}
    cut = evaluation_windows(assets.model_gguf, assets.evaluation_text, given.windows)
    quality = measure_quality(build, files, folders, cut, given)
    speed = None if given.quality_only else measure_speed(files, folders, given)
    return {
        "command": "make frontier",
        "cpu": cpu_model(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {**versions(), "llama.cpp": f"{COMMIT} (of {REQUIREMENT})"},
        "builds": builds_of(given.levels),
        "dense": {**quality["dense"], "bf16_bytes": 2 * open_model(assets.model_gguf).num_parameters},
        "models": {name: quality[name] for name in (*files, *folders)},
        "speed": speed,
        "rows": [compare(point, ANSWERS[point], quality, speed) for point in POINTS],
    }


def write_pages(report: Figures, out: Path, readme: Path) -> None:
    """Write the table, the picture, and the results that the README shows."""
    (out / "frontier.md").write_text(as_page(report), encoding="utf-8")
    (out / "frontier.svg").write_text(as_svg(report), encoding="utf-8")
    readme.write_text(with_results(readme.read_text(encoding="utf-8"), report), encoding="utf-8")
    say(f"wrote {out / 'frontier.md'}, {out / 'frontier.svg'} and {readme}")


# ---- what is measured -------------------------------------------------------------------------------------


def quantized(build: Build, parent: Path, name: str, work: Path) -> Path:
    """Return llama.cpp's file of a point; made from the parent if it is not there."""
    path = work / f"{name}.gguf"
    if not path.exists():
        say(f"quantizing {name}")
        quantize(build, parent, path, name)
    return path


def recipe_path(name: str) -> str:
    """A file beside this script, or a shipped name."""
    own = RECIPES / f"{name}.yaml"
    return str(own) if own.is_file() else name


def answered(name: str, parent: Path, text: Path, work: Path) -> Path:
    """Return the folder of a recipe; made if it is not there, or was made by another text of the recipe."""
    folder = work / name
    recipe = load_recipe(recipe_path(name))
    manifest = folder / "gossamer.json"
    if not manifest.is_file() or json.loads(manifest.read_text())["recipe"] != recipe.to_dict():
        compress(
            parent, recipe, out=folder, text=str(text), overwrite=True,
            progress=lambda what, done, total: say(f"{name}: {what} {done}/{total}"),
        )  # fmt: skip
    return folder


def evaluation_windows(parent: Path, text: Path, count: int) -> Windows:
    """The windows of `gossamer evaluate`: 1024 tokens, no overlap, from the start of the text.

    llama.cpp gets the same ids, start tokens included.
    """
    documents = deduplicate(read_documents(text)).documents
    source = open_model(parent)
    vocabulary = source.config.get_text_config().vocab_size
    stream = tokenize(documents, source.tokenizer(), text.name, vocabulary)
    return windows(stream, DEFAULT_LENGTH, None, count)


def measure_quality(
    build: Build, files: dict[str, Path], folders: dict[str, Path], cut: Windows, given: argparse.Namespace
) -> dict[str, Figures]:
    """Perplexity and size of every model and the dense parent; from WORK/quality.json where it is known."""
    store = given.work / "quality.json"
    known: dict[str, Figures] = json.loads(store.read_text()) if store.is_file() else {}
    found: dict[str, Figures] = {}
    parent = fetch_demo_assets().model_gguf
    for name, path in {"dense": parent, **files, **folders}.items():
        key = f"{name} {identity(path)} {cut.sha8}"
        if key not in known:
            say(f"perplexity of {name}")
            known[key] = quality_of(build, name, path, cut)
            write_json(store, known)
        found[name] = known[key]
    return found


def identity(path: Path) -> str:
    """Eight digits that change with the weights."""
    file = path / "gossamer.json" if path.is_dir() else path
    if path.is_dir():
        manifest = json.loads(file.read_text())
        return hashlib.sha256(f"{manifest['created']} {manifest['recipe_yaml']}".encode()).hexdigest()[:8]
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]


def quality_of(build: Build, name: str, path: Path, cut: Windows) -> Figures:
    """Perplexity by our protocol: llama.cpp runs its files, the native engine our folders and the parent."""
    if path.suffix == ".gguf" and name != "dense":
        peer = Logits(build, path, cut.length, num_cores())
        measured = perplexity(peer, cut, lambda done, total: say(f"{name}: {done}/{total}"))
        peer.close()
        size = path.stat().st_size
    else:
        model = NativeModel.open(path, "int8", num_cores())
        measured = perplexity(model, cut, lambda done, total: say(f"{name}: {done}/{total}"))
        size = open_model(path).size_bytes
    return {
        "perplexity": measured.perplexity,
        "signature": measured.signature,
        "size_bytes": size,
        "engine": "llama.cpp" if path.suffix == ".gguf" and name != "dense" else "native",
    }


def measure_speed(
    files: dict[str, Path], folders: dict[str, Path], given: argparse.Namespace
) -> list[Figures]:
    """Decode all models interleaved, at every level and number of threads."""
    series = Series(given.rounds, given.work / "rounds.json", given.through)
    runs = [
        measure(folders, files, level, threads, AMOUNTS, series)
        for level in given.levels
        for threads in given.threads
    ]
    return [decoding(run, [*files, *folders]) for run in runs]


def decoding(run: Figures, names: Sequence[str]) -> Figures:
    """Rates by model instead of by round, and their medians."""
    rounds = {name: [figures[name]["decode"] for figures in run["rounds"]] for name in names}
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    return {**run, "rounds": rounds, "decode_tokens_per_s": medians}


if __name__ == "__main__":
    main()
