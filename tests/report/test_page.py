"""The report: what it shows, what it leaves open, and that a hostile manifest cannot take it over."""

import base64
import hashlib
import json
import re
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gossamer import files
from gossamer.errors import RunError, UsageError
from gossamer.report import html, record
from gossamer.report.figures import Point, heat_map, scatter, size_bars
from gossamer.report.page import default_names, render, write_report
from gossamer.report.record import TIMES
from gossamer.report.tables import Cell, Table, make_table

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def layer(block: int | None, name: str, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "name": name if block is None else f"model.layers.{block}.{name}", "block": block, "kind": "x",
        "shape": [100, 50], "sparsity": 0.5, "bits": 4, "format": "bitmask", "bytes": 2500, "dense_bytes": 10000,
        "relative_error": 0.02, "seconds": 0.1, "notes": [],
    }  # fmt: skip
    return {**given, **changes}


MANIFEST: dict[str, Any] = {
    "format_version": 1,
    "created": "2026-01-02T03:04:05+00:00",
    "gossamer_version": "0.1.0",
    "parent": {"name": "parent-1B", "sha256": "ab" * 32, "size_bytes": 98_000_000, "bf16_bytes": 40_000},
    "recipe": {"name": "sparse50-int4"},
    "recipe_yaml": "steps:\n  - {layers: '*', method: sparsegpt}\n",
    "calibration": {"source": "wiki.txt", "fingerprint": "f00d", "num_samples": 32, "length": 512, "seed": 7},
    "layers": [
        layer(0, "attn.q", relative_error=0.01),
        layer(0, "mlp.up", relative_error=0.03, notes=["2 dead inputs"]),
        layer(1, "attn.q", relative_error=0.03, notes=["2 dead inputs"]),
        layer(1, "mlp.up", relative_error=0.05, sparsity=0.7),
        layer(None, "embed", sparsity=0.0, bits=8, format="integer", bytes=5000),
    ],
    "size": {
        "total_bytes": 20_000,
        "weights_bytes": 16_000,
        "by_part": {"embeddings": 5000, "attention": 5000, "mlp": 5000, "norms": 1000, "other": 0},
        "parent_by_part": {"embeddings": 10000, "attention": 15000, "mlp": 14000, "norms": 1000, "other": 0},
    },
    "run": {"seconds": 201.0, "peak_memory_bytes": 1.62e9, "threads": 2, "cpu": "Z80"},
    "notes": ["windows were shortened"],
    "measured": {
        "evaluation": {
            "perplexity": 48.0, "parent_perplexity": 24.0, "perplexity_ratio_ci95": [1.9, 2.1],
            "bits_per_byte": 1.25, "kl_mean": 0.7, "top1_agreement": 0.625, "cosine_mean": 0.98765,
            "perplexity_signature": "wiki, 1024 tokens",
        },
        "benchmark": {
            "threads": 2, "prompt_tokens": 64, "repeats": 5, "noisy": False,
            "decode_tokens_per_s": 60.0, "prefill_tokens_per_s": 600.0, "load_seconds": 0.5,
            "peak_memory_bytes": 5e8, "weight_bytes_per_token": 7e7, "roofline_share": 0.31,
            "against": {"decode_tokens_per_s": 24.0, "prefill_tokens_per_s": 900.0, "load_seconds": 2.0},
            "ratios": {
                "decode": {"ratio": 2.5, "low": 2.25, "high": 2.75},
                "prefill": {"ratio": 0.5, "low": 0.4, "high": 0.8},
            },
        },
    },
}  # fmt: skip


def changed(**changes: Any) -> dict[str, Any]:
    return {**deepcopy(MANIFEST), **changes}


def cells(table: Table, label: str) -> list[Cell]:
    return next(row.cells for row in table.rows if row.label == label)


class Page(HTMLParser):
    """A page as a browser would take it apart: its elements, its scripts, its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script" and (self.scripts == [] or self.scripts[-1][0] is not attributes):
            self.scripts.append((attributes, data))
        elif tag == "script" and data.strip() and not self.scripts[-1][1].endswith(data):
            self.text += data
        else:
            self.text += data

    @property
    def figures(self) -> dict[str, Any]:
        return {
            str(a["id"]): json.loads(data) for a, data in self.scripts if a.get("type") == "application/json"
        }


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "get_plotlyjs", lambda: "window.Plotly = {};")


# ---- the table --------------------------------------------------------------------------------------------


def test_table_puts_the_parent_beside_the_model_with_every_change() -> None:
    table = make_table([MANIFEST], ["mine"])
    assert [column.name for column in table.columns] == ["dense parent", "mine"]
    assert cells(table, "Size on disk") == [Cell("40.0 kB"), Cell("20.0 kB", f"2.00{TIMES} smaller")]
    assert cells(table, "Bits per weight") == [Cell("16.0"), Cell("6.40")]
    assert cells(table, "Sparsity")[1] == Cell("44.0 %")
    assert cells(table, "Perplexity") == [Cell("24.00"), Cell("48.00", f"{TIMES}2.00 (95 %: 1.90 to 2.10)")]
    assert cells(table, "Top-1 agreement")[1] == Cell("62.5 %")
    assert cells(table, "Decode") == [Cell("24.0"), Cell("60.0", f"2.50{TIMES} faster (2.25 to 2.75)")]
    assert cells(table, "Prefill")[1] == Cell("600", f"2.00{TIMES} slower (1.25 to 2.50)")
    assert cells(table, "Load time")[1] == Cell("0.500 s", f"4.00{TIMES} shorter")
    assert cells(table, "Peak memory") == [Cell(None), Cell("500 MB")]
    assert table.remarks == [
        "Perplexity: wiki, 1024 tokens.",
        "Speed: 2 threads, 64 tokens of prompt, 5 rounds.",
    ]


def test_models_of_one_parent_share_its_column_and_others_have_their_own() -> None:
    other = changed(parent={"name": "elsewhere", "sha256": "00"}, measured={})
    table = make_table([MANIFEST, other, changed()], ["a", "b", "c"])
    names = [column.name for column in table.columns]
    assert names == ["parent-1B, dense", "a", "c", "elsewhere, dense", "b"]
    assert cells(table, "Perplexity")[3:] == [Cell(None), Cell(None)]


def test_figures_that_cannot_be_compared_are_called_so() -> None:
    other = changed()
    other["measured"]["evaluation"]["perplexity_signature"] = "other text"
    other["measured"]["benchmark"].update(threads=1, noisy=True)
    table = make_table([MANIFEST, other], ["a", "b"])
    remarks = " ".join(table.remarks)
    assert "must not be compared" in remarks
    assert "different runs" in remarks
    assert table.noisy
    assert "busy with other work" in render([MANIFEST, other], ["a", "b"])
    assert "busy with other work" not in render([MANIFEST], ["a"])


# ---- figures ----------------------------------------------------------------------------------------------


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


# ---- the page ---------------------------------------------------------------------------------------------


def test_page_shows_everything_the_manifest_says() -> None:
    page = Page(render([MANIFEST], ["mine"]))
    for shown in (
        "parent-1B", "48.00", f"2.50{TIMES} faster", "windows were shortened", "2 dead inputs",
        "(model.layers.0.mlp.up, model.layers.1.attn.q)", "steps:\n  - {layers: '*', method: sparsegpt}",
        "ab" * 32, "f00d", "wiki.txt", "2026-01-02T03:04:05+00:00", "3 min 21 s", "1.62 GB", "Z80",
        "cosine mean", "0.9877", "integer, 8 bits", "not packed",
    ):  # fmt: skip
        assert shown in page.text, shown
    assert set(page.figures) == {"against-size", "against-speed", "sizes", "error-1", "sparsity-1"}
    for figure in page.figures.values():
        assert figure["data"]


def test_page_tells_what_each_step_cost_and_what_training_gave_back() -> None:
    def steps(*errors: float | None) -> list[dict[str, Any]]:
        return [
            {"method": method, "relative_error": error}
            for method, error in zip(("admm", "gptq"), errors, strict=True)
        ]

    known = [
        layer(0, "attn.q", steps=steps(0.02, 0.03)),
        layer(1, "attn.q", steps=steps(0.04, 0.07)),
        layer(1, "mlp.up", steps=steps(0.125, None)),
    ]
    blocks = [
        {"name": "layers.0", "output_error": 0.25, "reconstruction": [{"before": 0.5, "after": 0.125}]},
        {"name": "layers.1", "output_error": 0.375},
        {"name": "layers.2"},
    ]
    page = Page(render([changed(layers=known, blocks=blocks)], ["mine"]))
    for shown in (
        "admm 3.00 %, gptq 5.00 %",
        "admm 12.5 %, gptq \u2013",
        "50.0 % to 12.5 %",
        "37.5 %",
        "layers.1",
    ):
        assert shown in page.text, shown
    assert "layers.2" not in page.text
    assert "What each step cost" not in Page(render([MANIFEST], ["mine"])).text


def test_page_names_the_rank_beside_the_bits() -> None:
    layers = [
        layer(0, "mlp.up", format="low_rank", rank=6),
        layer(0, "mlp.down", format="low_rank", bits=None, rank=7),
    ]
    page = Page(render([{**MANIFEST, "layers": layers}], ["mine"]))
    assert "low_rank, 4 bits, rank 6" in page.text and "low_rank, rank 7" in page.text


def test_page_needs_no_network() -> None:
    page = Page(render([MANIFEST], ["mine"]))
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "base"), tag
        assert not {"src", "href"} & set(attributes)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_policy_allows_exactly_the_scripts_of_the_page() -> None:
    page = Page(render([MANIFEST], ["mine"]))
    policy = next(str(a["content"]) for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    code = [source for attributes, source in page.scripts if "type" not in attributes]
    hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in code]
    assert len(code) == 2
    assert re.search(r"script-src ([^;]*);", policy).group(1).split() == [f"'sha256-{h}'" for h in hashes]  # type: ignore[union-attr]


def test_one_sparsity_everywhere_is_said_in_words() -> None:
    same = changed(layers=[layer(0, "mlp.up"), layer(1, "mlp.up", sparsity=0.501)])
    page = Page(render([same], ["mine"]))
    assert "50.0 % zeros in every compressed matrix" in " ".join(page.text.split())
    assert "sparsity-1" not in page.figures


def test_an_empty_manifest_gives_a_page_that_says_what_is_missing() -> None:
    page = Page(render([{}], ["mine"]))
    assert page.text.count("not measured") > 20
    assert "not recorded" in page.text
    assert page.figures == {}


def poisoned(value: Any) -> Any:
    """Every text, key included, replaced by one that wants out of its place."""
    if isinstance(value, dict):
        return {key: poisoned(each) for key, each in value.items()} | {HOSTILE: 7, f"{HOSTILE}2": HOSTILE}
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_names_stay_text() -> None:
    harmless, hostile = Page(render([MANIFEST], ["mine"])), Page(render([poisoned(MANIFEST)], [HOSTILE]))
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in harmless.tags}
    assert [a for a, _ in hostile.scripts] == [a for a, _ in harmless.scripts]
    code = [[source for a, source in page.scripts if "type" not in a] for page in (hostile, harmless)]
    assert code[0] == code[1]
    assert all("onerror" not in a for _, a in hostile.tags)
    assert HOSTILE in hostile.text
    for figure in hostile.figures.values():  # plotly reads markup in texts
        assert "<script" not in json.dumps(figure)
        assert "<img" not in json.dumps(figure)


def test_hostile_part_names_are_no_templates() -> None:
    figure = size_bars([("a", {"%{customdata}": 1e6})])
    assert "%{customdata}" not in figure["data"][0]["hovertemplate"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    ("parent",), ("parent", "name"), ("parent", "sha256"), ("parent", "bf16_bytes"), ("recipe",), ("recipe_yaml",),
    ("calibration",), ("layers",), ("layers", 0), ("layers", 0, "block"), ("layers", 0, "shape"),
    ("layers", 0, "shape", 0), ("layers", 0, "relative_error"), ("layers", 0, "sparsity"), ("layers", 0, "bytes"),
    ("layers", 0, "bits"), ("layers", 0, "notes"), ("size",), ("size", "by_part"), ("size", "by_part", "mlp"),
    ("size", "total_bytes"), ("size", "weights_bytes"), ("run",), ("run", "seconds"), ("notes",), ("measured",),
    ("measured", "evaluation"), ("measured", "evaluation", "perplexity"),
    ("measured", "evaluation", "parent_perplexity"), ("measured", "evaluation", "perplexity_ratio_ci95"),
    ("measured", "benchmark"), ("measured", "benchmark", "decode_tokens_per_s"),
    ("measured", "benchmark", "against"), ("measured", "benchmark", "ratios", "decode"),
    ("measured", "benchmark", "ratios", "decode", "low"), ("created",), ("gossamer_version",),
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PATHS), ANYTHING)
@example(("layers", 0, "sparsity"), 3.6e304)  # infinite in percent
def test_any_wrong_value_still_gives_a_page(path: tuple[Any, ...], value: Any) -> None:
    manifest = deepcopy(MANIFEST)
    place: Any = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    page = Page(render([manifest, MANIFEST], default_names([manifest, MANIFEST])))
    assert "Size on disk" in page.text
    for figure in page.figures.values():
        assert "NaN" not in json.dumps(figure)
        assert "Infinity" not in json.dumps(figure)


# ---- the file ---------------------------------------------------------------------------------------------


def test_report_is_written_and_not_overwritten_unasked(tmp_path: Path) -> None:
    out = write_report([MANIFEST], tmp_path / "report.html", names=["first"])
    assert "first" in out.read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        write_report([MANIFEST], out, names=["second"])
    assert "first" in out.read_text(encoding="utf-8")
    write_report([MANIFEST], out, names=["second"], overwrite=True)
    assert "second" in out.read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_a_full_disk_leaves_the_old_report_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    out.write_text("old", encoding="utf-8")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        write_report([MANIFEST], out, overwrite=True)
    assert out.read_text(encoding="utf-8") == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one"):
        write_report([], tmp_path / "a.html")
    with pytest.raises(UsageError, match="expected 1 names"):
        write_report([MANIFEST], tmp_path / "a.html", names=["a", "b"])
    with pytest.raises(UsageError, match="folder that exists"):
        write_report([MANIFEST], tmp_path / "missing" / "a.html")
    with pytest.raises(UsageError, match="folder that exists"):
        write_report([MANIFEST], tmp_path, overwrite=True)


def test_the_real_script_of_plotly_can_stand_in_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    page = render([MANIFEST], ["mine"])
    assert len(page) > 1_000_000
    assert page.lower().count("</script>") == 7  # two of code, five of data


def test_models_are_named_by_their_recipe_and_numbered_when_alike() -> None:
    other = changed(recipe={"name": "int4"})
    assert default_names([MANIFEST, other, MANIFEST]) == ["sparse50-int4 1", "int4", "sparse50-int4 2"]
    assert default_names([{}]) == ["compressed"]


# ---- figures as people read them --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1234567, "1,234,567"), (24.034, "24.0"), (0.5, "0.500"), (0.0002, "0.000200"), (0.99996, "1.00"),
     (1e-9, "1.00e-09"),
     (-2.5, "-2.50"), (None, None)],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, shown: str | None) -> None:
    assert record.plain(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (999_960, "1.00 MB"), (74_200_000, "74.2 MB"),
     (1.62e9, "1.62 GB"), (None, None)],
)  # fmt: skip
def test_sizes_are_in_decimal_units(value: float | None, shown: str | None) -> None:
    assert record.size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.500 s"), (119, "119 s"), (201, "3 min 21 s"), (7322, "2 h 2 min"), (None, None)],
)
def test_times_are_in_units_of_people(value: float | None, shown: str | None) -> None:
    assert record.seconds(value) == shown
