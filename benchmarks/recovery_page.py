"""The table and the picture of benchmarks/recovery.py."""

import math
from typing import Any

from benchmarks.heading import heading
from benchmarks.plot import text

LEFT, TOP, WIDTH, HEIGHT, LEGEND = 60, 30, 460, 300, 200
COLOURS = (
    "#2f6f4f", "#b0562f", "#3f5fa8", "#8a6d1f", "#7a3f8a", "#4f8a8a",
    "#a83f5f", "#5f5f5f", "#6f8a2f", "#2f3f6f", "#c08040", "#404040",
)  # fmt: skip


def as_page(record: dict[str, Any]) -> str:
    """Return recovery.md."""
    results = record["results"]
    lines = [
        "# What recovery gives back",
        "",
        heading(record)
        + ". SmolLM2-135M. Trained on the demo's calibration text by KL to the dense parent alone (no labels); "
        "the same bytes and zeros; judged on the demo's evaluation text. Trained: all kept weights, norms and scales, "
        "or masked adapters (lora), and the learning rate. Ratio: perplexity over that of the dense parent. Products: "
        "the type in which matrices are multiplied in training, bfloat16 where the CPU has instructions for it. Share: "
        "of the products that the machine's measured peak allows.",
        "",
        "![held-out KL against tokens](recovery.svg)",
        "",
        "| recipe | trained | size, MB | ratio before | after | target | KL before | after | steps | tokens "
        "| minutes | tokens/s | products | share of peak | optimizer, MB | date |",
        "|---" * 16 + "|",
    ]
    lines += [line(name, each, record["targets"][name]) for name, each in results.items()]
    for each in list(results.values())[:1]:
        found = each["after"]
        lines += [
            "",
            f"Dense parent: perplexity {found['parent_perplexity']:.2f}. Signature: `{found['perplexity_signature']}`.",
        ]
    return "\n".join(lines) + "\n"


def line(name: str, each: dict[str, Any], target: float | None) -> str:
    before, after, run = each["before"], each["after"], each["recovery"]
    reached = after["perplexity_ratio"]
    wanted = "" if target is None else f"{target:.2f}" + (" (missed)" if reached > target else "")
    cells = [
        name, f"{run['settings']['train']}, {run['settings']['learning_rate']:g}",
        f"{after['size_bytes'] / 1e6:.1f}", f"{before['perplexity_ratio']:.3f}", f"{reached:.3f}", wanted,
        f"{before['kl_mean']:.3f}", f"{after['kl_mean']:.3f}", str(run["steps"]), f"{run['tokens']:,}",
        f"{run['seconds'] / 60:.1f}", f"{run['tokens_per_s']:.0f}", run["precision"], f"{run['share_of_peak']:.0%}",
        f"{run['optimizer_bytes'] / 1e6:.0f}", run["created"][:10],
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def as_svg(record: dict[str, Any]) -> str:
    """Return the held-out KL of each run against the tokens that it has learnt from."""
    curves = {name: each["recovery"]["curve"] for name, each in record["results"].items()}
    points = [point for curve in curves.values() for point in curve]
    most = max([point["tokens"] for point in points], default=1) or 1
    logs = [math.log(point["kl"]) for point in points] or [0.0]
    low, high = min(logs) - 0.05, max(logs) + 0.05
    parts = [text(LEFT, 18, "KL to the dense parent, held-out windows, nats a token", "font-weight='bold'")]

    def x(tokens: float) -> float:
        return LEFT + WIDTH * tokens / most

    def y(kl: float) -> float:
        return TOP + HEIGHT * (high - math.log(kl)) / (high - low)

    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            text(x(share * most), TOP + HEIGHT + 18, f"{share * most / 1000:.0f}k", "text-anchor='middle'")
        )
        kl = math.exp(low + share * (high - low))
        parts.append(text(LEFT - 6, y(kl) + 4, f"{kl:.3f}", "text-anchor='end'"))
        parts.append(
            f"<line x1='{LEFT}' y1='{y(kl):.1f}' x2='{LEFT + WIDTH}' y2='{y(kl):.1f}' stroke='#e0e0e0'/>"
        )
    parts.append(text(LEFT + WIDTH / 2, TOP + HEIGHT + 36, "tokens learnt from", "text-anchor='middle'"))
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x(point['tokens']):.1f},{y(point['kl']):.1f}" for point in curve)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        place = TOP + 14 + 18 * number
        parts.append(
            f"<rect x='{LEFT + WIDTH + 14}' y='{place - 9}' width='10' height='10' fill='{colour}'/>"
        )
        parts.append(text(LEFT + WIDTH + 30, place, name))
    size = f"width='{LEFT + WIDTH + LEGEND}' height='{TOP + HEIGHT + 50}'"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' {size} font-family='sans-serif' font-size='12'>\n"
        "<rect width='100%' height='100%' fill='white'/>\n" + "\n".join(parts) + "\n</svg>\n"
    )
