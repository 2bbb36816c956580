"""What a sparse folder would give as the draft of a dense one: speculative decoding, told from its parts.

    python -m benchmarks.drafts TARGET DRAFT [DRAFT ...] [--threads N] [--windows N] [--out DIR]

Leviathan et al. 2023 (arXiv 2211.17192), eq. 1 and theorem 3.8: a draft writes g tokens, the target looks at all of
them at once and keeps the first n, and one of its own. With the acceptance rate a (sampled: the sum over the
vocabulary of the smaller probability; greedy: how often both have the same likeliest token), the time c of a token
of the draft and the time v(g + 1) of g + 1 tokens at once in the target, both over the time of a token of the
target,

    speed-up = (1 - a^(g + 1)) / ((1 - a) (g c + v(g + 1)))

Acceptance is measured over the demo's evaluation text, times on the native engine behind 64 tokens, targets and drafts
in turn, medians. Nothing is decoded speculatively here: the figure is what a perfect implementation would reach.
Writes drafts.json and drafts.md.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.heading import heading
from gossamer.checkpoint.source import open_model
from gossamer.data.assets import fetch_demo_assets
from gossamer.data.deduplicate import deduplicate
from gossamer.data.sources import read_documents
from gossamer.data.tokens import tokenize, windows
from gossamer.evaluation.speed.surroundings import cpu_model, num_cores, versions
from gossamer.files import write_json
from gossamer.runtime.engine import Engine

LONGEST, LENGTH, PROMPT, ROUNDS, TOKENS = 4, 512, 64, 9, 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path)
    parser.add_argument("drafts", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    given = parser.parse_args()
    folders = [given.target, *given.drafts]
    engines = [Engine.open(folder, threads=given.threads, cache_tokens=2 * LENGTH) for folder in folders]
    ids_NL = text_windows(given.target, given.windows)
    seconds = times(engines)
    record = {
        "cpu": cpu_model(),
        "versions": versions(),
        "command": "python -m benchmarks.drafts",
        "threads": given.threads,
        "tokens": ids_NL.numel(),
        "target": {"name": given.target.name, "tokens_per_s": 1 / seconds[0][1], "at_once": seconds[0]},
        "drafts": [
            compared(folder.name, engines[0], engine, ids_NL, seconds[0], own[1])
            for folder, engine, own in zip(folders[1:], engines[1:], seconds[1:], strict=True)
        ],
    }
    write_json(given.out / "drafts.json", record)
    (given.out / "drafts.md").write_text(as_page(record), encoding="utf-8")


def text_windows(folder: Path, count: int) -> Tensor:
    """Return windows of the demo's evaluation text, [N, L]."""
    source = open_model(folder)
    documents = deduplicate(read_documents(fetch_demo_assets().evaluation_text)).documents
    vocabulary = source.config.get_text_config().vocab_size
    return windows(tokenize(documents, source.tokenizer(), "evaluation", vocabulary), LENGTH).ids_NL[:count]


def times(engines: list[Engine]) -> list[dict[int, float]]:
    """Return, for each engine, the seconds that so many tokens at once take behind a prompt, with all their logits."""
    sizes = range(1, LONGEST + 2)
    found: list[dict[int, list[float]]] = [{size: [] for size in sizes} for _ in engines]
    generator = torch.Generator().manual_seed(0)
    for _ in range(ROUNDS):
        for engine, seconds in zip(engines, found, strict=True):
            ids = torch.randint(engine.vocabulary_size, (PROMPT,), generator=generator, dtype=torch.int32)
            for size in sizes:
                seconds[size].append(step_seconds(engine, ids, size))
    return [{size: statistics.median(each) for size, each in seconds.items()} for seconds in found]


def step_seconds(engine: Engine, ids: Tensor, size: int) -> float:
    """Return the median over `TOKENS` steps of `size` tokens behind the prompt `ids`."""
    native, taken = engine._native, []
    logits_TV = torch.empty(PROMPT, engine.vocabulary_size)
    sequence = native.open(0.0, 0, 1.0, 0.0, 1.0, 0)
    try:
        native.score(sequence, ids, logits_TV.data_ptr())
        for _ in range(TOKENS):
            began = time.perf_counter()
            native.score(sequence, ids[:size], logits_TV.data_ptr())
            taken.append(time.perf_counter() - began)
    finally:
        native.close(sequence)
    return statistics.median(taken)


def compared(
    name: str, target: Engine, draft: Engine, ids_NL: Tensor, of_target: dict[int, float], seconds: float
) -> dict[str, Any]:
    """Return how often a draft is accepted, and what that would give."""
    sampled = greedy = 0.0
    for number, ids_L in enumerate(ids_NL):
        sys.stderr.write(f"{name}: window {number + 1}/{len(ids_NL)}\n")
        p_LV, q_LV = (engine.logits(ids_L).softmax(-1) for engine in (target, draft))
        sampled += float(torch.minimum(p_LV, q_LV).sum(-1).mean()) / len(ids_NL)
        greedy += float((p_LV.argmax(-1) == q_LV.argmax(-1)).float().mean()) / len(ids_NL)
    gains = {
        kind: {length: gain(rate, length, seconds, of_target) for length in range(1, LONGEST + 1)}
        for kind, rate in (("sampled", sampled), ("greedy", greedy))
    }
    return {"name": name, "tokens_per_s": 1 / seconds, "sampled": sampled, "greedy": greedy, "gains": gains}


def gain(rate: float, length: int, draft: float, target: dict[int, float]) -> float:
    """Return the speed-up of drafts of `length` tokens; times in seconds."""
    accepted = length + 1 if rate == 1 else (1 - rate ** (length + 1)) / (1 - rate)
    return accepted * target[1] / (length * draft + target[length + 1])


def as_page(record: dict[str, Any]) -> str:
    target = record["target"]
    lines = [
        "# Sparse folders as drafts of a dense one",
        "",
        heading(record, f", {record['threads']} threads")
        + f". The target, `{target['name']}`, decodes {target['tokens_per_s']:.0f} tokens/s. Accepted: over "
        f"{record['tokens']:,} tokens of text. Speed-up: what speculative decoding (Leviathan et al. 2023) would reach "
        "at best, by drafts of one to four tokens; below 1 it is slower. Nothing was decoded so.",
        "",
        "| draft | tokens/s | accepted, sampled | greedy | best speed-up, sampled | greedy |",
        "|---" * 6 + "|",
    ]
    for each in record["drafts"]:
        best = [max(each["gains"][kind].items(), key=lambda item: item[1]) for kind in ("sampled", "greedy")]
        cells = [f"{speed:.2f} (drafts of {length})" for length, speed in best]
        lines.append(
            f"| {each['name']} | {each['tokens_per_s']:.0f} | {each['sampled']:.1%} | {each['greedy']:.1%} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
