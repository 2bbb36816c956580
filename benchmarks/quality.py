"""Quality, size and speed of the recipes on real models: what stands in docs/benchmarks/quality.*.

    python benchmarks/quality.py [--work FOLDER] [--only NAME ...] [--windows N]

Compresses SmolLM2-135M by each recipe below (32 windows of 512 tokens of calibration text), measures perplexity on
Wikipedia articles that calibration has not seen beside the dense parent, and decoding speed beside the dense parent in
bfloat16; and MiniLM, an encoder, with the cosine of sentence embeddings. What has been measured already (in
WORK/results.json) is not measured again, so a run that was stopped can go on.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import gossamer
from benchmarks.heading import heading
from gossamer.checkpoint.manifest import read_manifest
from gossamer.data.assets import fetch_demo_assets
from gossamer.evaluation.speed.surroundings import cpu_model, versions
from gossamer.files import write_json
from gossamer.recipe.reader import load_recipe, parse_recipe, shipped_recipes
from gossamer.recipe.recipe import Recipe


def published(step: str) -> str:
    """One step as its paper has it: each layer fitted to its own outputs."""
    return f"calibration: {{align: false}}\nsteps:\n  - {{layers: '*', {step}}}\n"


INT4 = (
    "steps:\n"
    "  - {layers: '*', method: gptq, bits: 4, group_size: 64}\n"
    "  - {layers: [embeddings, head], method: rtn, bits: 8}\n"
)

SMOLLM2: dict[str, str] = {
    "magnitude 50 %": published("method: magnitude, sparsity: 0.5"),
    "wanda 50 %": published("method: wanda, sparsity: 0.5"),
    "sparsegpt 50 %": published("method: sparsegpt, sparsity: 0.5"),
    "sparsegpt 8:16": published("method: sparsegpt, pattern: '8:16'"),
    "sparsegpt 2:4": published("method: sparsegpt, pattern: '2:4'"),
    "admm 50 %": published("method: admm, sparsity: 0.5"),
    "admm 70 %, 64 windows": "calibration: {align: false, samples: 64}\n"
    "steps: [{layers: '*', method: admm, sparsity: 0.7}]\n",
    "admm 8:16, global": "steps: [{layers: '*', method: admm, pattern: '8:16', scope: global}]\n",
    "sparse50-best, 8:16": "calibration: {samples: 64}\nsteps:\n"
    "  - {layers: '*', method: admm, pattern: '8:16', scope: global}\n"
    "  - {layers: '*', method: reconstruct, epochs: 2}\n",
    "sparse50, then int4": "steps:\n"
    "  - {layers: '*', method: admm, sparsity: 0.5, scope: global}\n"
    "  - {layers: '*', method: gptq, bits: 4, group_size: 64}\n",
    "sparse50, then 4.25 bits": "steps:\n"
    "  - {layers: '*', method: admm, sparsity: 0.5, scope: global}\n"
    "  - {layers: '*', method: gptq, bits: 4, average_bits: 4.25, group_size: 64}\n",
    "int4 symmetric": INT4,
    **{name: name for name in shipped_recipes() if not name.startswith("encoder")},
}
MINILM: dict[str, str] = {
    "encoder-sparse50-int8": "encoder-sparse50-int8",
    "MiniLM int4 symmetric": "calibration: {samples: 4000, length: 32}\n" + INT4,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("demo/quality"))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--only", nargs="*", help="names of the recipes to measure")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--quality-only", action="store_true", help="leave speed out")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    given.work.mkdir(parents=True, exist_ok=True)
    store = given.work / "results.json"
    results: dict[str, Any] = json.loads(store.read_text()) if store.is_file() else {}
    assets = fetch_demo_assets()
    texts = (assets.calibration_text, assets.evaluation_text)
    for parent, recipes in ((assets.model_gguf, SMOLLM2), (assets.minilm_folder, MINILM)):
        for name, text in recipes.items():
            if name not in results and (not given.only or name in given.only):
                recipe = load_recipe(text) if "\n" not in text else parse_recipe(text, name)
                results[name] = measure(name, recipe, parent, texts, given)
                write_json(store, results)
    record = {
        "cpu": cpu_model(),
        "versions": versions(),
        "command": "python benchmarks/quality.py",
        "results": {name: results[name] for name in (*SMOLLM2, *MINILM) if name in results},
    }
    write_json(given.out / "quality.json", record)
    (given.out / "quality.md").write_text(as_markdown(record), encoding="utf-8")


def measure(
    name: str, recipe: Recipe, parent: Path, texts: tuple[Path, Path], given: argparse.Namespace
) -> dict[str, Any]:
    """Compress, evaluate and benchmark; return the figures and delete the folder."""
    calibration, evaluation = texts
    folder = given.work / "".join(c if c.isalnum() else "-" for c in name)
    progress(name, "compress", 0)
    made = gossamer.compress(
        parent,
        recipe,
        out=folder,
        text=str(calibration),
        overwrite=True,
        resume=True,
        progress=progress_of(name),
    )
    quality = judged(name, folder, parent, evaluation, given.windows)
    speed = None
    if not given.quality_only:
        speed = gossamer.benchmark(
            folder, against=parent, peer="torch", tokens=32, repeats=5, progress=progress_of(name)
        )
    manifest = read_manifest(folder)
    shutil.rmtree(folder)
    return {
        "date": manifest["created"][:10],
        "recipe": manifest["recipe"],
        "size": manifest["size"],
        "run": made.manifest["run"],
        "reload_max_difference": manifest["reload_max_difference"],
        "evaluation": without_paths(quality),
        "benchmark": speed and without_paths(speed.to_dict()),
    }


def judged(name: str, folder: Path, parent: Path, text: Path, windows: int) -> dict[str, Any]:
    """Return what `evaluate` says of a folder beside its dense parent."""
    return gossamer.evaluate(
        folder, text=text, against=parent, num_windows=windows, engine="torch", progress=progress_of(name)
    ).to_dict()


def without_paths(figures: dict[str, Any]) -> dict[str, Any]:
    """Name models by their file or folder alone."""
    named = {key: Path(value).name for key, value in figures.items() if key in ("model", "parent") and value}
    if figures.get("against"):
        named["against"] = without_paths(figures["against"])
    return {**figures, **named}


def progress(name: str, what: str, done: int, total: int = 1) -> None:
    sys.stderr.write(f"{name}: {what} {done}/{total}\n")


def progress_of(name: str) -> Any:
    return lambda what, done, total: progress(name, what, done, total)


def as_markdown(record: dict[str, Any]) -> str:
    lines = [
        "# Quality, size and speed of the recipes",
        "",
        heading(record) + ". One-shot, nothing was trained end to end. Raw figures: `quality.json`.",
        "",
        "| recipe | perplexity | of dense | KL | size, MB | compress, s | memory, GB | decode, tok/s "
        "| of dense bf16 | date |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, each in record["results"].items():
        lines.append(row(name, each))
    for each in record["results"].values():
        signature = each["evaluation"].get("perplexity_signature")
        if signature:
            dense = each["evaluation"]["parent_perplexity"]
            lines += ["", f"Dense parent: perplexity {dense:.2f}. Signature: `{signature}`."]
            break
    return "\n".join(lines) + "\n"


def row(name: str, each: dict[str, Any]) -> str:
    quality, speed, run = each["evaluation"], each["benchmark"], each["run"]
    if quality.get("perplexity") is not None:
        figures = [
            f"{quality['perplexity']:.2f}",
            f"{quality['perplexity_ratio']:.3f}x",
            f"{quality['kl_mean']:.3f}",
        ]
    else:
        figures = [f"cosine {quality['embedding_cosine_mean']:.4f}", "", ""]
    figures += [
        f"{quality['size_bytes'] / 1e6:.1f}",
        f"{run['seconds']:.0f}" + (" (1 thread)" if run["threads"] == 1 else ""),
        f"{run['peak_memory_bytes'] / 1e9:.2f}",
        *speed_of(speed),
        each["date"],
    ]
    return f"| {name} | " + " | ".join(figures) + " |"


def speed_of(speed: dict[str, Any] | None) -> list[str]:
    if speed is None:
        return ["not measured", ""]
    ratio, decode = speed["ratios"]["decode"] or speed["ratios"]["prefill"], speed["decode_tokens_per_s"]
    spread = f"{ratio['ratio']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return [
        "prefill only" if decode is None else f"{decode:.1f}",
        spread + (", noisy" if speed["noisy"] else ""),
    ]


if __name__ == "__main__":
    main()
