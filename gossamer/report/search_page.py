"""The page of a search: one HTML file that needs no network, drawn as the report is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gossamer.files import write_text
from gossamer.report import html
from gossamer.report.figures import Figure, label
from gossamer.version import __version__

Axis = Literal["size", "latency"]
AXES: dict[Axis, tuple[str, float]] = {
    "size": ("size of the folder, MB", 1e6),
    "latency": ("milliseconds for a decoded token", 1.0),
}
MOST_LOST = 4
"""Predictions of more than so many times the dense perplexity do not stretch the figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchedRecipe:
    """A recipe on the page."""

    name: str
    file: str
    levels: str
    """How many matrices have each, in words."""
    sparse: bool
    size_bytes: float
    latency_ms: float | None
    """Both as measured, or as predicted where nothing was."""
    perplexity: float | None
    perplexity_ratio: float | None
    """As measured; None: not verified."""
    predicted_ratio: float
    """Perplexity over the dense model's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """What the page says."""

    model: str
    budget: str
    verdict: str
    notes: Sequence[str]
    dense_perplexity: float
    perplexity_signature: str
    axis: Axis
    """What perplexity is drawn against."""
    limited: str
    """size, latency or perplexity."""
    limit: float
    """Bytes, milliseconds, or perplexity over the dense model's."""
    recipes: Sequence[SearchedRecipe]


def write_search_page(page: SearchPage, out: Path) -> None:
    """Write the page to `out`, complete or not at all."""
    rendered = html.render(
        "search.html.j2",
        page=page,
        version=__version__,
        figure=figure(page),
        rows=[_row(each) for each in page.recipes if each.perplexity is not None],
        predictions=[_row(each) for each in page.recipes if each.perplexity is None],
    )
    write_text(out, rendered)


def figure(page: SearchPage) -> Figure:
    """Perplexity against size or time: the predicted front as a line, what was verified as points, the budget."""
    title, unit = AXES[page.axis]
    dense = page.dense_perplexity
    predicted = [
        (_place(each, page.axis), dense * each.predicted_ratio, each.name)
        for each in page.recipes
        if each.perplexity is None
    ]
    data = [_series(predicted, "predicted", "lines+markers", "role:muted", "circle-open")]
    for sparse, name, symbol in ((False, "verified, dense", "circle"), (True, "verified, sparse", "diamond")):
        chosen = [
            (_place(each, page.axis), each.perplexity, each.name)
            for each in page.recipes
            if each.perplexity is not None and each.sparse == sparse
        ]
        if chosen:
            data.append(_series(chosen, name, "markers+text", "role:accent", symbol))
    shown = [point[1] for point in predicted if point[1] <= MOST_LOST * dense]
    shown += [each.perplexity for each in page.recipes if each.perplexity is not None]
    low, high = min([dense, *shown]), max([dense, *shown])
    room = 0.1 * (high - low) or 0.1 * high
    limit = _line("y", dense * page.limit, "dash")
    if page.limited != "perplexity":
        limit = _line("x", page.limit / unit, "dash")
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
            "shapes": [limit, _line("y", dense, "dot")],
        },
    }


def _place(recipe: SearchedRecipe, axis: Axis) -> float:
    """Where a recipe stands on the axis, in its unit."""
    value = recipe.size_bytes if axis == "size" else recipe.latency_ms
    assert value is not None
    return value / AXES[axis][1]


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


def _row(recipe: SearchedRecipe) -> list[str]:
    """Cells of a table: name, size, time, perplexity, its ratio measured and predicted, levels, recipe."""
    return [
        recipe.name,
        f"{recipe.size_bytes / 1e6:.1f}",
        "" if recipe.latency_ms is None else f"{recipe.latency_ms:.2f}",
        "" if recipe.perplexity is None else f"{recipe.perplexity:.2f}",
        "" if recipe.perplexity_ratio is None else f"{recipe.perplexity_ratio:.3f}",
        f"{recipe.predicted_ratio:.3f}",
        recipe.levels,
        recipe.file,
    ]
