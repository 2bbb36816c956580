"""The figures of a report, as plain values in plotly's format: {"data": [...], "layout": {...}}.

Colours are roles ("role:accent"); the page replaces them by those of the light or dark scheme it is shown
in. plotly reads a little markup in texts, so that everything that comes from a manifest is escaped here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from gossamer.report.record import Layer, share, size

Figure = dict[str, Any]
PARTS = ("embeddings", "attention", "mlp", "norms", "other")
LONGEST_LABEL = 48


@dataclass(frozen=True, slots=True)
class Point:
    """A model in a scatter plot."""

    name: str
    x: float
    y: float
    dense: bool


def label(name: str) -> str:
    """Return a name for use in a figure: cut, and with markup made harmless."""
    return escape(name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…")


def heat_map(
    layers: Sequence[Layer], values: Sequence[float | None], top: float | None = None
) -> Figure | None:
    """Blocks across, linears of a block down; the mean where several share a place (experts).

    Returns None when no layer has both a block and a value.
    """
    cells: dict[tuple[str, int], list[float]] = {}
    for layer, value in zip(layers, values, strict=True):
        if layer.block is not None and value is not None:
            cells.setdefault((layer.label, layer.block), []).append(value)
    if not cells:
        return None
    labels = list(dict.fromkeys(each for each, _ in cells))
    blocks = sorted({block for _, block in cells})
    means = {place: sum(found) / len(found) for place, found in cells.items()}
    grid = [[means.get((each, block)) for block in blocks] for each in labels]
    highest = top if top is not None else max(means.values())
    return {
        "data": [
            {
                "type": "heatmap",
                "x": [str(block) for block in blocks],
                "y": [label(each) for each in labels],
                "z": grid,
                "text": [[share(value) or "" for value in row] for row in grid],
                "hovertemplate": "block %{x}<br>%{y}<br>%{text}<extra></extra>",
                "zmin": 0,
                "zmax": highest or 1,
                "xgap": 1,
                "ygap": 1,
                "colorscale": [[0, "role:low"], [1, "role:accent"]],
                "colorbar": {"tickformat": ".2~%", "thickness": 10, "outlinewidth": 0, "len": 1},
            }
        ],
        "layout": {
            "height": 90 + 26 * len(labels),
            "margin": {"l": 10, "r": 10, "t": 10, "b": 40},
            "xaxis": {"title": {"text": "block"}, "type": "category", "showgrid": False, "automargin": True},
            "yaxis": {"autorange": "reversed", "showgrid": False, "automargin": True},
        },
    }


def size_bars(models: Sequence[tuple[str, dict[str, float]]]) -> Figure:
    """One bar a model, stacked by part; `models` are (name, bytes of each part)."""
    totals = [sum(parts.values()) / 1e6 for _, parts in models]
    others = [part for _, parts in models for part in parts if part not in PARTS]
    data = []
    for number, part in enumerate((*PARTS, *dict.fromkeys(others))):
        values = [parts.get(part, 0.0) for _, parts in models]
        if any(values):
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": label(part),
                    "x": [value / 1e6 for value in values],
                    "y": [label(name) for name, _ in models],
                    "text": [size(value) for value in values],
                    "textposition": "none",
                    "hovertemplate": "%{y}<br>" + _literal(label(part)) + ": %{text}<extra></extra>",
                    "marker": {"color": f"role:part{min(number, len(PARTS) - 1)}"},
                }
            )
    return {
        "data": data,
        "layout": {
            "barmode": "stack",
            "bargap": 0.35,
            "height": 130 + 44 * len(models),
            "margin": {"l": 10, "r": 10, "t": 10, "b": 40},
            "xaxis": {"title": {"text": "MB"}, "range": [0, 1.12 * max(totals) or 1], "automargin": True},
            "annotations": [
                {
                    "x": total,
                    "y": index,
                    "text": size(1e6 * total),
                    "xanchor": "left",
                    "xshift": 6,
                    "showarrow": False,
                    "font": {"color": "role:muted"},
                }
                for index, total in enumerate(totals)
            ],
            "yaxis": {"autorange": "reversed", "automargin": True, "showgrid": False},
            "legend": {"orientation": "h", "traceorder": "normal", "y": 1.02, "yanchor": "bottom", "x": 0},
        },
    }


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> Figure:
    """One point a model, named beside it; the perplexity axis is logarithmic when it spans a factor of 5."""
    data = []
    highest_x = max(point.x for point in points)
    for dense in (True, False):
        chosen = [point for point in points if point.dense == dense]
        if chosen:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers+text",
                    "name": "dense" if dense else "compressed",
                    "x": [point.x for point in chosen],
                    "y": [point.y for point in chosen],
                    "text": [f"  {label(point.name)}  " for point in chosen],
                    "textposition": [_side(point, highest_x) for point in chosen],
                    "cliponaxis": False,
                    "hovertemplate": "%{text}<br>"
                    f"{x_title}: %{{x:.4~g}}<br>{y_title}: %{{y:.4~g}}<extra></extra>",
                    "marker": {
                        "size": 11,
                        "color": "role:muted" if dense else "role:accent",
                        "symbol": "circle-open" if dense else "circle",
                        "line": {"width": 2, "color": "role:muted" if dense else "role:accent"},
                    },
                }
            )
    lowest, highest = min(point.y for point in points), max(point.y for point in points)
    y_axis: dict[str, Any] = {"title": {"text": y_title}, "automargin": True}
    if lowest > 0 and highest > 5 * lowest:
        bottom, top = math.log10(lowest) - 0.1, math.log10(highest) + 0.1
        steps = [
            step * 10.0**power for power in range(math.floor(bottom), math.ceil(top)) for step in (1, 2, 5)
        ]
        shown = [step for step in steps if bottom <= math.log10(step) <= top]
        y_axis |= {"type": "log", "range": [bottom, top]}
        y_axis |= {"tickvals": shown, "ticktext": [f"{step:g}" for step in shown]}
    else:
        room = 0.2 * (highest - lowest) or 0.2 * abs(highest) or 1.0
        y_axis["range"] = [max(0.0, lowest - room), highest + room]
    return {
        "data": data,
        "layout": {
            "height": 340,
            "showlegend": False,
            "margin": {"l": 10, "r": 10, "t": 20, "b": 40},
            "xaxis": {
                "title": {"text": x_title},
                "automargin": True,
                "range": [0, 1.15 * highest_x],
            },
            "yaxis": y_axis,
        },
    }


def curve(points: Sequence[tuple[float, float, str]], x_title: str, y_title: str) -> Figure:
    """A line through points (x, y, what it is), in their order."""
    lowest, highest = min(y for _, y, _ in points), max(y for _, y, _ in points)
    room = 0.15 * (highest - lowest) or 0.15 * abs(highest) or 1.0
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": [x for x, _, _ in points],
                "y": [y for _, y, _ in points],
                "text": [label(what) for _, _, what in points],
                "hovertemplate": f"%{{text}}<br>{y_title}: %{{y:.4~g}}<extra></extra>",
                "line": {"width": 2, "color": "role:accent"},
                "marker": {"size": 7, "color": "role:accent"},
            }
        ],
        "layout": {
            "height": 280,
            "showlegend": False,
            "margin": {"l": 10, "r": 10, "t": 10, "b": 40},
            "xaxis": {
                "title": {"text": x_title},
                "automargin": True,
                "range": [0, 1.05 * max(x for x, _, _ in points) or 1],
            },
            "yaxis": {
                "title": {"text": y_title},
                "automargin": True,
                "range": [max(0.0, lowest - room), highest + room],
            },
        },
    }


def _side(point: Point, highest_x: float) -> str:
    """Where a point's name has room: towards the middle of the figure."""
    return "middle left" if point.x > 0.55 * highest_x else "middle right"


def _literal(shown: str) -> str:
    """Keep plotly from reading a name as a placeholder of a template."""
    return shown.replace("%{", "%&#123;")
