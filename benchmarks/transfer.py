"""What is lost on other text than the one that a model was recovered with.

    python -m benchmarks.transfer BEFORE AFTER [MIXED ...] [--windows N] [--out DIR]

BEFORE, AFTER, MIXED: folders of SmolLM2-135M before recovery, and after it with this text or that. Each is judged on
the demo's evaluation text and on the domains of `benchmarks/domains.py`, as a ratio to the dense parent's perplexity
and by the KL to the parent. Writes transfer.json and transfer.md.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.domains import DOMAINS, texts
from benchmarks.heading import heading
from benchmarks.quality import judged
from gossamer.checkpoint.manifest import read_manifest
from gossamer.data.assets import fetch_demo_assets
from gossamer.evaluation.speed.surroundings import cpu_model, versions
from gossamer.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    given = parser.parse_args()
    assets = fetch_demo_assets()
    judged = {"wikipedia": assets.evaluation_text} | {domain: texts(domain)[1] for domain in DOMAINS}
    record = {
        "cpu": cpu_model(),
        "versions": versions(),
        "command": f"python -m benchmarks.transfer, {given.windows} windows of 1024",
        "folders": {
            folder.name: {
                "learnt": learnt(folder),
                "domains": {
                    name: figures(folder, assets.model_gguf, text, given.windows)
                    for name, text in judged.items()
                },
            }
            for folder in given.folders
        },
    }
    write_json(given.out / "transfer.json", record)
    (given.out / "transfer.md").write_text(as_page(record), encoding="utf-8")


def learnt(folder: Path) -> str:
    """Say what a folder was recovered with."""
    runs = read_manifest(folder).get("recovery", [])
    return ", ".join(f"{run['tokens']:,} tokens of {run['text']['source']}" for run in runs) or "nothing"


def figures(folder: Path, parent: Path, text: Path, windows: int) -> dict[str, Any]:
    found = judged(f"{folder.name}, {text.name}", folder, parent, text, windows)
    return {key: found[key] for key in ("perplexity", "parent_perplexity", "perplexity_ratio", "kl_mean")}


def as_page(record: dict[str, Any]) -> str:
    domains = list(next(iter(record["folders"].values()))["domains"])
    lines = [
        "# What recovery does to other text",
        "",
        heading(record)
        + ". SmolLM2-135M. Ratio to the dense parent's perplexity, and KL to the parent in nats a token. News: "
        "sections A to C of the Brown corpus; speeches: State of the Union since 1946; every second document of each.",
        "",
        "| folder | learnt from | " + " | ".join(domains) + " |",
        "|---" * (2 + len(domains)) + "|",
    ]
    for name, each in record["folders"].items():
        cells = [f"{d['perplexity_ratio']:.3f} ({d['kl_mean']:.3f})" for d in each["domains"].values()]
        lines.append(f"| {name} | {each['learnt']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
