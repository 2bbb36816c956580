"""What is said of the figures of benchmarks/frontier.py: which points are beaten, its page, the README's results."""

import re
import statistics
from typing import Any

Figures = dict[str, Any]
TARGET = 2.0
"""How many times the speed of llama.cpp's file its answer has to reach."""
BASE = "Q4_0"
"""The file of llama.cpp whose speed is 1 in the README."""
MARKS = "<!-- results -->", "<!-- /results -->"


def compare(point: str, answer: str, quality: dict[str, Figures], speed: Figures | None) -> Figures:
    """One row: a point of llama.cpp, its answer, and which of the three demands are met."""
    theirs, ours = quality[point], quality[answer]
    ratios = None
    if speed is not None:
        pairs = zip(speed["rounds"][answer], speed["rounds"][point], strict=True)
        ratios = sorted(own / other for own, other in pairs)
    met = {
        "perplexity": ours["perplexity"] <= theirs["perplexity"],
        "size": ours["size_bytes"] <= theirs["size_bytes"],
        "speed": None if ratios is None else statistics.median(ratios) >= TARGET,
    }
    return {
        "point": point,
        "answer": answer,
        "speed_ratio": None if ratios is None else [statistics.median(ratios), ratios[0], ratios[-1]],
        "met": met,
        "beaten": all(met.values()) if ratios is not None else None,
    }


def as_page(report: Figures) -> str:
    """The table in Markdown."""
    speed = report["speed"]
    software = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        "# llama.cpp's points and ours",
        "",
        f"`{report['command']}` on {report['cpu']}; {software}. SmolLM2-135M; both sides are made from the demo's "
        "file, which is Q4_1: recipes named `stored` keep its linears as they are. Wanted: no larger perplexity, "
        f"no larger size, {TARGET:g} x the decoding speed (median of interleaved rounds, smallest to largest). "
        "Raw figures: `frontier.json`.",
        "",
        "![size against perplexity](frontier.svg)",
        "",
    ]
    if speed is None:
        lines += ["Speed was not measured.", ""]
    elif speed["noisy"]:
        lines += ["**Noisy run:** other processes or the hypervisor took time. Do not quote its speeds.", ""]
    lines += [
        "| llama.cpp | perplexity | MB | tokens/s | Gossamer | perplexity | MB | tokens/s | ratio | beaten |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [as_row(row, report) for row in report["rows"]]
    told = {row[side] for row in report["rows"] for side in ("point", "answer")}
    others = [name for name in report["models"] if name not in told]
    if others:
        lines += ["", "| also measured | perplexity | MB | tokens/s |", "|---|---|---|---|"]
        lines += ["| " + " | ".join([name, *cells(name, report)]) + " |" for name in others]
    lines += [
        "",
        f"Dense parent: perplexity {report['dense']['perplexity']:.2f}. Signature: `{report['dense']['signature']}`; "
        "`dtype` says what computed the logits.",
    ]
    return "\n".join(lines) + "\n"


def as_row(row: Figures, report: Figures) -> str:
    ratio = row["speed_ratio"]
    told = "not measured" if ratio is None else f"{ratio[0]:.2f} x ({ratio[1]:.2f} to {ratio[2]:.2f})"
    missed = [name for name, fine in row["met"].items() if fine is False]
    verdict = (
        f"no: {', '.join(missed)}" if missed else "yes" if row["beaten"] else "but for speed, not measured"
    )
    left, right = cells(row["point"], report), cells(row["answer"], report)
    return "| " + " | ".join([row["point"], *left, row["answer"], *right, told, verdict]) + " |"


def cells(name: str, report: Figures) -> list[str]:
    """Perplexity, size and speed of a model."""
    figures = report["models"][name]
    speed = "" if report["speed"] is None else f"{report['speed']['decode_tokens_per_s'][name]:.0f}"
    return [f"{figures['perplexity']:.2f}", f"{figures['size_bytes'] / 1e6:.1f}", speed]


def with_results(readme: str, report: Figures) -> str:
    """Return the README with the results of this report between its marks."""
    start, end = MARKS
    return re.sub(f"{start}.*?{end}", lambda _: f"{start}\n{results(report)}{end}", readme, flags=re.DOTALL)


def results(report: Figures) -> str:
    """The README's picture and table: all models of one run, the largest first, with one ratio each."""
    dense, models, speed = report["dense"], report["models"], report["speed"]
    rows = [("dense bf16", dense["bf16_bytes"], dense["perplexity"], "")]
    for name, model in models.items():
        whose = f"Gossamer `{name}`" if model["engine"] == "native" else f"{model['engine']} {name}"
        rows.append((whose, model["size_bytes"], model["perplexity"], name))
    lines = [
        "![SmolLM2-135M: size against perplexity of Gossamer's recipes and llama.cpp's files]"
        "(docs/benchmarks/frontier.svg)",
        "",
        f"| SmolLM2-135M | size, MB | perplexity | decode, tokens/s | times {BASE} |",
        "|---|---|---|---|---|",
    ]
    for whose, size, perplexity, name in sorted(rows, key=lambda row: -row[1]):
        rate, ratio = "not measured", ""
        if speed is not None and name:
            rate = f"{speed['decode_tokens_per_s'][name]:.0f}"
            ratio = f"{speed['decode_tokens_per_s'][name] / speed['decode_tokens_per_s'][BASE]:.2f}"
        lines.append(f"| {whose} | {size / 1e6:.1f} | {perplexity:.2f} | {rate} | {ratio} |")
    return "\n".join(lines) + "\n"
