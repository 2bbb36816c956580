"""Bars as an SVG file, from the figures of benchmarks/engine.py."""

from html import escape
from typing import Any

BAR, GAP, LEFT, WIDTH, MARGIN = 16, 6, 170, 420, 110
COLOURS = {"native": "#2f6f4f", "llama.cpp": "#b0a58f"}
PANELS = {
    "decode_tokens_per_s": "decode, tokens/s",
    "prefill_tokens_per_s": "prefill of 512, tokens/s",
    "batch_tokens_per_s": "8 sequences at once, tokens/s",
}


def as_svg(run: dict[str, Any], title: str) -> str:
    """Return one picture of a run: a panel for each figure, a bar for each model that has it."""
    parts, y = [text(0, 18, title, "font-weight='bold'")], 40
    for key, label in PANELS.items():
        models = [model for model in run["models"] if model.get(key) is not None]
        longest = max(model[key] for model in models)
        parts.append(text(0, y + BAR - 4, label))
        y += BAR + GAP
        for model in models:
            width = WIDTH * model[key] / longest
            name = f"{model['engine']} {model['name']}"
            colour = COLOURS[model["engine"]]
            parts.append(text(LEFT - 8, y + BAR - 4, name, "text-anchor='end'"))
            parts.append(f"<rect x='{LEFT}' y='{y}' width='{width:.1f}' height='{BAR}' fill='{colour}'/>")
            parts.append(text(LEFT + width + 6, y + BAR - 4, f"{model[key]:.0f}"))
            y += BAR + GAP
        y += BAR
    size = f"width='{LEFT + WIDTH + MARGIN}' height='{y}'"
    style = "font-family='sans-serif' font-size='12'"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' {size} {style}>\n"
        f"<rect width='100%' height='100%' fill='white'/>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def text(x: float, y: float, content: str, more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y}' {more}>{escape(content)}</text>"
