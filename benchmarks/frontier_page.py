"""What is said of the figures of benchmarks/frontier.py: which points are beaten, its page, the README's results."""

import re
import statistics
from typing import Any

Figures = dict[str, Any]
TARGET = 2.0
"""How many times the speed of llama.cpp's file its answer has to reach."""
BASE = "Q4_0"
"""The file of llama.cpp whose speed is 1 in the README."""
LEVELS = {"avx2": "AVX2", "avx512": "AVX-512", "amx": "AVX-512"}
"""Names of instruction sets; the engine decodes with AVX-512 where there are tiles too."""
MARKS = "<!-- results -->", "<!-- /results -->"


def compare(point: str, answer: str, quality: dict[str, Figures], speed: list[Figures] | None) -> Figures:
    """One row: a point of llama.cpp, its answer, and which of the three demands are met.

    `speed` holds the runs, one for each level and number of threads; every one of them has to reach the target.
    """
    theirs, ours = quality[point], quality[answer]
    ratios = None if speed is None else [spread(run["rounds"][answer], run["rounds"][point]) for run in speed]
    met = {
        "perplexity": ours["perplexity"] <= theirs["perplexity"],
        "size": ours["size_bytes"] <= theirs["size_bytes"],
        "speed": None if ratios is None else all(middle >= TARGET for middle, _, _ in ratios),
    }
    return {
        "point": point,
        "answer": answer,
        "speed_ratios": ratios,
        "met": met,
        "beaten": all(met.values()) if ratios is not None else None,
    }


def spread(own: list[float], others: list[float]) -> list[float]:
    """Median, smallest and largest of the ratios within a round."""
    ratios = sorted(one / other for one, other in zip(own, others, strict=True))
    return [statistics.median(ratios), ratios[0], ratios[-1]]


def as_page(report: Figures) -> str:
    """The tables in Markdown."""
    speed = report["speed"] or []
    software = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        "# llama.cpp's points and ours",
        "",
        f"`{report['command']}`, {report['date']}, {report['cpu']}; {software}. SmolLM2-135M; both sides are made from "
        "the demo's file, which is Q4_1: recipes named `stored` keep its linears as they are. Wanted: no larger "
        f"perplexity, no larger size, and {TARGET:g} x the decoding speed in every column (median of interleaved "
        "rounds, smallest to largest; llama.cpp is timed by its own `llama-bench`, see [engine.md](engine.md)). Raw "
        "figures: `frontier.json`.",
        "",
        "![size against perplexity](frontier.svg)",
        "",
    ]
    if not speed:
        lines += ["Speed was not measured.", ""]
    for level, build in report["builds"].items():
        lines += [f"llama.cpp's build for {level}: `{' '.join(build['flags'])}`.", ""]
    titles = [title_of(run) for run in speed]
    lines += table(
        ["llama.cpp", "perplexity", "MB", "Gossamer", "perplexity", "MB", *titles, "beaten"],
        [row_cells(row, report) for row in report["rows"]],
    )
    lines += ["", f"All models{', tokens/s' if speed else ''}:", ""]
    lines += table(
        ["", "perplexity", "MB", *titles],
        [[name, *cells(name, report), *rates(name, speed)] for name in report["models"]],
    )
    repeated = sum(run["repeated"] for run in speed)
    lines += [
        "",
        f"Dense parent: perplexity {report['dense']['perplexity']:.2f}. Signature: `{report['dense']['signature']}`; "
        f"`dtype` says what computed the logits. Rounds taken again because of other processes: {repeated}.",
    ]
    return "\n".join(lines) + "\n"


def title_of(run: Figures) -> str:
    return f"{LEVELS.get(run['isa'], run['isa'])}, {run['threads']} thread{'s' if run['threads'] > 1 else ''}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def row_cells(row: Figures, report: Figures) -> list[str]:
    told = [f"{middle:.2f} x ({low:.2f} to {high:.2f})" for middle, low, high in row["speed_ratios"] or []]
    missed = [name for name, fine in row["met"].items() if fine is False]
    verdict = (
        f"no: {', '.join(missed)}" if missed else "yes" if row["beaten"] else "but for speed, not measured"
    )
    left, right = cells(row["point"], report), cells(row["answer"], report)
    return [row["point"], *left, row["answer"], *right, *told, verdict]


def cells(name: str, report: Figures) -> list[str]:
    """Perplexity and size of a model."""
    figures = report["models"][name]
    return [f"{figures['perplexity']:.2f}", f"{figures['size_bytes'] / 1e6:.1f}"]


def rates(name: str, speed: list[Figures]) -> list[str]:
    return [f"{run['decode_tokens_per_s'][name]:.0f}" for run in speed]


def with_results(readme: str, report: Figures) -> str:
    """Return the README with the results of this report between its marks."""
    start, end = MARKS
    return re.sub(f"{start}.*?{end}", lambda _: f"{start}\n{results(report)}{end}", readme, flags=re.DOTALL)


def results(report: Figures) -> str:
    """The README's picture and table: all models of one run, the largest first; speeds with most threads, by level."""
    dense, models = report["dense"], report["models"]
    most = max((run["threads"] for run in report["speed"] or []), default=0)
    speed = [run for run in report["speed"] or [] if run["threads"] == most]
    rows = [("dense bf16", dense["bf16_bytes"], dense["perplexity"], "")]
    for name, model in models.items():
        whose = f"Gossamer `{name}`" if model["engine"] == "native" else f"{model['engine']} {name}"
        rows.append((whose, model["size_bytes"], model["perplexity"], name))
    head = ["SmolLM2-135M", "size, MB", "perplexity"]
    for run in speed:
        head += [f"decode, tokens/s, {title_of(run)}", f"times {BASE}"]
    lines = []
    for whose, size, perplexity, name in sorted(rows, key=lambda row: -row[1]):
        line = [whose, f"{size / 1e6:.1f}", f"{perplexity:.2f}"]
        for run in speed:
            medians = run["decode_tokens_per_s"]
            line += (
                [f"{medians[name]:.0f}", f"{medians[name] / medians[BASE]:.2f}"]
                if name
                else ["not measured", ""]
            )
        lines.append(line)
    picture = (
        "![SmolLM2-135M: size against perplexity of Gossamer's recipes and llama.cpp's files]"
        "(docs/benchmarks/frontier.svg)"
    )
    return "\n".join([picture, "", *table(head, lines)]) + "\n"
