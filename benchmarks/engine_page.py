"""The page of `make bench` in Markdown, from its figures."""

from typing import Any

Figures = dict[str, Any]
HEAD = [
    "model", "MB a token", "decode", "ratio", "target", "x our int4", "target", "prefill", "ratio", "target",
    "batch", "ratio",
]  # fmt: skip


def as_page(report: Figures) -> str:
    """Return the report in Markdown."""
    amounts = report["amounts"]
    lines = [
        "# The native engine beside llama.cpp",
        "",
        f"`{report['command']}`, {report['date']}, {report['cpu']}, {report['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        + ".",
        "",
        f"SmolLM2-135M. decode: tokens/s of {amounts['tokens']} tokens behind {amounts['depth']} others; prefill: of "
        f"{amounts['prompt']} tokens; batch: {amounts['batch']} sequences at once, {amounts['batch_tokens']} tokens "
        f"each behind {amounts['depth']}, all together. llama.cpp is timed by its own `llama-bench` and "
        "`llama-batched-bench`, ours by `benchmarks/ours.py`: every figure comes from a process of its own with a "
        f"warm-up, at the same priority. {report['rounds']} rounds visit all models in turn; a round that other "
        "processes disturbed is taken again. Figures: medians. Ratios: median of the ratios within a round (smallest "
        "to largest).",
        "",
        "llama.cpp's builds, `-DCMAKE_BUILD_TYPE=Release` and:",
        "",
    ]
    for level, build in report["builds"].items():
        died = "".join(f"; {larger}" for larger in build["died"])
        lines.append(f"- {level}: `{' '.join(build['flags'])}`{died}")
    if len(report["builds"]) > 1:
        lines += [
            "",
            "`avx2` is a stand-in for a machine without more: the same processor, `GOSSAMER_ISA=avx2`, and a llama.cpp "
            "built for AVX2 alone.",
        ]
    for run in report["runs"]:
        lines += ["", f"## {title_of(run)}", "", *table(run["models"], HEAD)]
    for run in report["large"]:
        lines += [
            "",
            f"## 3B, random weights, {title_of(run)}",
            "",
            "Shapes of Llama-3.2-3B; no cache holds it.",
            "",
            *table(run["models"], HEAD[:7]),
        ]
    return "\n".join(lines) + "\n"


def title_of(run: Figures) -> str:
    threads = "1 thread" if run["threads"] == 1 else f"{run['threads']} threads"
    level = run["level"] if run["level"] == run["isa"] else f"{run['level']} ({run['isa']})"
    repeated = f", {run['repeated']} more rounds were disturbed" if run["repeated"] else ""
    return f"{level}, {threads}, read bandwidth {run['read_bandwidth_gb_per_s']:.1f} GB/s{repeated}"


def table(models: list[Figures], head: list[str]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(cells(model)[: len(head)]) + " |" for model in models]


def cells(model: Figures) -> list[str]:
    ratios = model.get("ratios", {})
    decode, base = ratio_cells(ratios.get("decode")), ratio_cells(ratios.get("base"), named=False)
    prefill, batch = ratio_cells(ratios.get("prefill")), ratio_cells(ratios.get("batch"))
    return [
        f"{model['engine']} {model['name']}",
        f"{model['weight_bytes_per_token'] / 1e6:.1f}",
        rate(model, "decode", 1), *decode, *base,
        rate(model, "prefill", 0), *prefill,
        rate(model, "batch", 0), batch[0],
    ]  # fmt: skip


def rate(model: Figures, what: str, digits: int) -> str:
    value = model.get(f"{what}_tokens_per_s")
    return "" if value is None else f"{value:.{digits}f}"


def ratio_cells(ratio: Figures | None, named: bool = True) -> list[str]:
    """A ratio with its spread, and its target, marked where it is missed."""
    if ratio is None:
        return ["", ""]
    name = f" x {ratio['against']}" if named else ""
    told = f"{ratio['ratio']:.2f}{name} ({ratio['low']:.2f} to {ratio['high']:.2f})"
    target = ratio["target"]
    missed = " (missed)" if target is not None and ratio["ratio"] < target else ""
    return [told, "" if target is None else f"{target:g}{missed}"]
