"""The figures of a report: every value in its place, in a form that plotly takes."""

import json
import re
from typing import Any

import plotly.graph_objects
import pytest

from gossamer.report import record
from gossamer.report.figures import Point, heat_map, scatter, size_bars
from tests.report.manifests import MANIFEST, layer


def test_heat_map_puts_every_layer_in_its_place() -> None:
    known = record.layers(MANIFEST)
    figure = heat_map(known, [each.relative_error for each in known])
    assert figure is not None
    trace = figure["data"][0]
    assert (trace["x"], trace["y"]) == (["0", "1"], ["attn.q", "mlp.up"])
    assert trace["z"] == [[0.01, 0.03], [0.03, 0.05]]
    plotly.graph_objects.Figure(figure | {"data": [trace | {"colorscale": [[0, "#fff"], [1, "#000"]]}]})


def test_experts_share_a_place_by_their_mean() -> None:
    manifest = {"layers": [layer(0, f"experts.{i}.up", relative_error=0.1 * i) for i in (1, 3)]}
    known = record.layers(manifest)
    figure = heat_map(known, [each.relative_error for each in known])
    assert figure is not None
    assert figure["data"][0]["y"] == ["experts.*.up"]
    assert figure["data"][0]["z"] == [[pytest.approx(0.2)]]


def test_heat_map_of_nothing_is_nothing() -> None:
    known = record.layers({"layers": [layer(None, "embed")]})
    assert heat_map(known, [0.1]) is None


def test_size_bars_stack_the_parts_to_the_whole() -> None:
    figure = size_bars([("dense", {"mlp": 3e6, "norms": 1e6}), ("small", {"mlp": 1e6, "router": 1e6})])
    assert [trace["name"] for trace in figure["data"]] == ["mlp", "norms", "router"]
    assert [sum(x) for x in zip(*(trace["x"] for trace in figure["data"]), strict=True)] == [4, 2]
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["4.00 MB", "2.00 MB"]
    plotly.graph_objects.Figure(without_roles(figure))


def test_scatter_shows_the_dense_model_apart_and_spreads_by_logarithm() -> None:
    points = [
        Point("dense", 100.0, 24.0, True),
        Point("a", 50.0, 26.0, False),
        Point("b", 25.0, 480.0, False),
    ]
    figure = scatter(points, "size, MB", "perplexity")
    assert [(t["x"], t["y"]) for t in figure["data"]] == [([100.0], [24.0]), ([50.0, 25.0], [26.0, 480.0])]
    axis = figure["layout"]["yaxis"]
    assert axis["type"] == "log"
    assert axis["tickvals"] == [20, 50, 100, 200, 500]
    plotly.graph_objects.Figure(without_roles(figure))
    linear = scatter(points[:2], "size, MB", "perplexity")["layout"]["yaxis"]
    assert "type" not in linear
    assert linear["range"][0] < 24 < 26 < linear["range"][1]


def without_roles(value: Any) -> Any:
    """The figure with black where the page puts a colour of the scheme."""
    return json.loads(re.sub(r'"role:\w+"', '"#000000"', json.dumps(value)))


def test_hostile_part_names_are_no_templates() -> None:
    figure = size_bars([("a", {"%{customdata}": 1e6})])
    assert "%{customdata}" not in figure["data"][0]["hovertemplate"]
