"""The page of a search: one HTML file that needs no network, drawn as the report is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gossamer.files import write_text
from gossamer.frontier.budget import Budget
from gossamer.report import html
from gossamer.report.figures import Figure, label
from gossamer.version import __version__

AXES = {
    "size_bytes": ("size of the folder, MB", 1e6),
    "latency_ms": ("milliseconds for a decoded token", 1.0),
}


def write_page_of(result: dict[str, Any], axis: str, budget: Budget, out: Path) -> None:
    """Write the page of a search to `out`, complete or not at all."""
    page = html.render(
        "search.html.j2",
        result=result,
        version=__version__,
        figure=figure(result, axis, budget),
        rows=[_row(point) for point in result["points"] if point["verified"]],
        predictions=[_row(point) for point in result["points"] if not point["verified"]],
    )
    write_text(out, page)


def figure(result: dict[str, Any], axis: str, budget: Budget) -> Figure:
    """Perplexity against size or time: the predicted front as a line, what was verified as points, the budget."""
    title, unit = AXES[axis]
    dense = result["dense"]["perplexity"]
    predicted = [
        (point["predicted"][axis] / unit, dense * point["predicted"]["perplexity_ratio"], point["name"])
        for point in result["points"]
        if not point["verified"]
    ]
    data = [_series(predicted, "predicted", "lines+markers", "role:muted", "circle-open")]
    for sparse, name, symbol in ((False, "verified, dense", "circle"), (True, "verified, sparse", "diamond")):
        chosen = [
            (point["verified"][axis] / unit, point["verified"]["perplexity"], point["name"])
            for point in result["points"]
            if point["verified"] and point["sparse"] == sparse
        ]
        if chosen:
            data.append(_series(chosen, name, "markers+text", "role:accent", symbol))
    ys = [point[1] for point in predicted if point[1] <= 4 * dense] + [
        point["verified"]["perplexity"] for point in result["points"] if point["verified"]
    ]
    low, high = min([dense, *ys]), max([dense, *ys])
    room = 0.1 * (high - low) or 0.1 * high
    return {
        "data": data,
        "layout": {
            "height": 460,
            "margin": {"l": 10, "r": 10, "t": 20, "b": 40},
            "xaxis": {"title": {"text": title}, "automargin": True},
            "yaxis": {
                "title": {"text": "perplexity"},
                "automargin": True,
                "range": [low - room, high + room],
            },
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "shapes": [_limit(budget, dense, unit), _line("y", dense, "dot")],
        },
    }


def _series(
    points: Sequence[tuple[float, float, str]], name: str, mode: str, color: str, symbol: str
) -> Figure:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [point[0] for point in points],
        "y": [point[1] for point in points],
        "text": [label(point[2]) for point in points],
        "textposition": "top center",
        "hovertemplate": "%{text}<br>%{x:.4~g}<br>perplexity %{y:.4~g}<extra></extra>",
        "line": {"width": 1, "color": color},
        "marker": {"size": 9, "color": color, "symbol": symbol},
    }


def _limit(budget: Budget, dense: float, unit: float) -> Figure:
    if budget.key == "perplexity":
        return _line("y", dense * budget.limit, "dash")
    return _line("x", budget.limit / unit, "dash")


def _line(axis: str, value: float, dash: str) -> Figure:
    """A line through the whole figure at a value of one axis."""
    other = "x" if axis == "y" else "y"
    return {
        "type": "line",
        f"{axis}0": value,
        f"{axis}1": value,
        f"{other}0": 0,
        f"{other}1": 1,
        f"{other}ref": "paper",
        "line": {"color": "role:muted", "dash": dash, "width": 1},
    }


def _row(point: dict[str, Any]) -> list[str]:
    """Cells of a table: name, size, time, perplexity ratio measured and predicted, levels, recipe."""
    predicted, found = point["predicted"], point["verified"] or point["predicted"]
    latency = found["latency_ms"]
    return [
        point["name"],
        f"{found['size_bytes'] / 1e6:.1f}",
        "" if latency is None else f"{latency:.2f}",
        f"{point['verified']['perplexity']:.2f}" if point["verified"] else "",
        f"{found['perplexity_ratio']:.3f}" if point["verified"] else "",
        f"{predicted['perplexity_ratio']:.3f}",
        ", ".join(f"{count} {name}" for name, count in point["levels"].items()),
        point["recipe"],
    ]
