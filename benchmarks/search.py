"""Is a searched recipe better than those that people write? Three budgets against 20 hand-made recipes.

    python benchmarks/search.py [--work DIR] [--minutes N] [--samples N] [--length N] [--windows N] [--sizes MB ...]

Searches SmolLM2-135M for each size, then compresses it by every recipe of `HAND`, with the same calibration text and
settings, and evaluates it on the same held-out windows. A search wins if no hand-made folder that fits its budget has a
lower perplexity. What has been measured already (in WORK) is not measured again, so a run that was stopped can go on.
Writes search.json and search.md. Progress on stderr.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from gossamer.compression.compress import compress
from gossamer.data.assets import fetch_demo_assets
from gossamer.evaluation.evaluate import evaluate
from gossamer.evaluation.speed.surroundings import cpu_model, versions
from gossamer.files import write_json
from gossamer.frontier.levels import level
from gossamer.frontier.search import search
from gossamer.recipe.recipe import Calibration, Recipe, Step

MIDDLE = tuple(f"*.layers.{number}.*" for number in range(3, 28))
ENDS = tuple(f"*.layers.{number}.*" for number in (0, 1, 2, 28, 29))
ATTENTION, MLP = ("*.self_attn.*",), ("*.mlp.*",)
LOUD = ("*.down_proj", "*.v_proj")
REST = ("*.q_proj", "*.k_proj", "*.o_proj", "*.gate_proj", "*.up_proj")

HAND: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    f"{name}, embeddings {outside}": (*inside, (("embeddings", "head"), outside))
    for name, inside, outsides in (
        ("all int4-g32-asym", ((("*",), "int4-g32-asym"),), ("rtn8-g64", "rtn6-g64", "rtn4-g32-asym")),
        ("all int4-g64-asym", ((("*",), "int4-g64-asym"),), ("rtn8-g64", "rtn6-g64", "rtn4-g32-asym")),
        ("all int4-g64", ((("*",), "int4-g64"),), ("rtn8-g64", "rtn6-g64", "rtn4-g32")),
        ("down and v in 6 bits, others int4-g64", ((LOUD, "int6-g64"), (REST, "int4-g64")), ("rtn6-g64",)),
        ("down and v in 5 bits, others int4-g64", ((LOUD, "int5-g64"), (REST, "int4-g64")), ("rtn5-g32",)),
        (
            "down and v int4-g64, others int3-g64-asym",
            ((LOUD, "int4-g64"), (REST, "int3-g64-asym")),
            ("rtn6-g64",),
        ),
        ("attention int6-g64, MLP int4-g64", ((ATTENTION, "int6-g64"), (MLP, "int4-g64")), ("rtn5-g32",)),
        (
            "attention int4-g64, MLP int3-g64-asym",
            ((ATTENTION, "int4-g64"), (MLP, "int3-g64-asym")),
            ("rtn8-g64",),
        ),
        ("ends int5-g64, middle int4-g64", ((ENDS, "int5-g64"), (MIDDLE, "int4-g64")), ("rtn6-g64",)),
        (
            "ends int4-g64, middle int3-g64-asym",
            ((ENDS, "int4-g64"), (MIDDLE, "int3-g64-asym")),
            ("rtn6-g64",),
        ),
        ("all int3-g32-asym", ((("*",), "int3-g32-asym"),), ("rtn6-g64",)),
        ("all int3-g64-asym", ((("*",), "int3-g64-asym"),), ("rtn8-g64",)),
        ("all sparse50-int4-g64", ((("*",), "sparse50-int4-g64"),), ("rtn8-g64", "rtn6-g64")),
    )
    for outside in outsides
}
"""What people write: one level everywhere, or rules of thumb, with embeddings that make the sizes meet the budgets."""
SHARED = "search"
assert len(HAND) == 20


def main() -> None:
    parser = argparse.ArgumentParser(description="Searched recipes against hand-made ones.")
    parser.add_argument("--work", type=Path, default=Path("build/search"))
    parser.add_argument("--sizes", type=float, nargs="+", default=[72, 80, 90], help="budgets in MB")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    assets = fetch_demo_assets(report=say)
    found = {size: searched(size, assets.model_gguf, assets.calibration_text, given) for size in given.sizes}
    by_hand = {name: measured(name, assets.model_gguf, given) for name in HAND}
    report = {
        "cpu": cpu_model(),
        "versions": versions(),
        "settings": {key: getattr(given, key) for key in ("minutes", "samples", "length", "windows")},
        "dense": next(iter(found.values()))["dense"],
        "hand": by_hand,
        "rows": [compare(size, result, by_hand) for size, result in found.items()],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "search.json", report)
    (given.out / "search.md").write_text(as_page(report), encoding="utf-8")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress


def searched(size: float, model: Path, text: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The result of one search; a finished one is read. All go on in one folder and share what was measured."""
    kept = given.work / f"size-{size:g}.json"
    if kept.is_file():
        done: dict[str, Any] = json.loads(kept.read_text())
        return done
    shared = given.work / SHARED
    result = search(
        model, budget=f"size={size:g}MB", text=text, out=shared, minutes=given.minutes, samples=given.samples,
        length=given.length, windows=given.windows,
        progress=lambda what, done, total: say(f"{size:g} MB: {what} {done}/{total}"),
    )  # fmt: skip
    write_json(kept, result.to_dict())
    return result.to_dict()


def hand_recipe(name: str, given: argparse.Namespace) -> Recipe:
    """One recipe of `HAND`, with the calibration that the searches have."""
    steps = [
        Step(layers, step.method, step.settings)
        for layers, chosen in HAND[name]
        for step in level(chosen).steps
    ]
    return Recipe(tuple(steps), Calibration(samples=given.samples, length=given.length), (), name)


def measured(name: str, model: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Size and perplexity of a hand-made recipe, by the texts of the searches."""
    store = given.work / "hand.json"
    known: dict[str, Any] = json.loads(store.read_text()) if store.is_file() else {}
    if name not in known:
        texts = given.work / SHARED
        folder = given.work / "hand"
        made = compress(
            model, hand_recipe(name, given), out=folder, text=str(texts / "calibration.jsonl"), overwrite=True,
            progress=lambda what, done, total: say(f"{name}: {what} {done}/{total}"),
        )  # fmt: skip
        figures = evaluate(folder, text=texts / "heldout.jsonl", num_windows=given.windows)
        shutil.rmtree(folder)
        known[name] = {
            "size_bytes": made.manifest["size"]["total_bytes"],
            "perplexity": figures.perplexity,
            "perplexity_signature": figures.perplexity_signature,
        }
        write_json(store, known)
    own: dict[str, Any] = known[name]
    return own


def compare(size: float, result: dict[str, Any], by_hand: dict[str, Any]) -> dict[str, Any]:
    """One row: the chosen point, and the best hand-made recipe that fits the same budget."""
    fitting = {name: each for name, each in by_hand.items() if each["size_bytes"] <= size * 1e6}
    best = min(fitting, key=lambda name: fitting[name]["perplexity"], default=None)
    chosen = result["chosen"]["verified"]
    return {
        "budget_mb": size,
        "chosen": result["chosen"],
        "verdict": result["verdict"],
        "best_by_hand": best,
        "num_by_hand": len(fitting),
        "won": None
        if chosen is None or best is None
        else chosen["perplexity"] <= fitting[best]["perplexity"] and chosen["size_bytes"] <= size * 1e6,
    }


def as_page(report: dict[str, Any]) -> str:
    """The tables in Markdown."""
    software = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in report["settings"].items())
    lines = [
        "# Searched recipes against hand-made ones",
        "",
        f"`python benchmarks/search.py` on {report['cpu']}; {software}; {settings}. SmolLM2-135M, dense perplexity "
        f"{report['dense']['perplexity']:.2f}. Raw figures: `search.json`.",
        "",
        "| budget, MB | found, MB | perplexity | best by hand that fits | MB | perplexity | won |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        chosen, best = row["chosen"]["verified"], row["best_by_hand"]
        found = ["not verified", ""] if chosen is None else figures_of(chosen)
        hand = report["hand"].get(best)
        beside = ["none", "", ""] if hand is None else [best, *figures_of(hand)]
        won = {True: "yes", False: "no", None: ""}[row["won"]]
        lines.append("| " + " | ".join([f"{row['budget_mb']:g}", *found, *beside, won]) + " |")
    lines += ["", "| by hand | MB | perplexity |", "|---|---|---|"]
    for name, each in sorted(report["hand"].items(), key=lambda pair: pair[1]["size_bytes"]):
        lines.append(f"| {name} | {each['size_bytes'] / 1e6:.1f} | {each['perplexity']:.2f} |")
    return "\n".join(lines) + "\n"


def figures_of(each: dict[str, Any]) -> list[str]:
    """Size and perplexity as they are printed."""
    return [f"{each['size_bytes'] / 1e6:.1f}", f"{each['perplexity']:.2f}"]


if __name__ == "__main__":
    main()
