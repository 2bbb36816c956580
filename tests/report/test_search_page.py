"""The page of a search, from plain values."""

from pathlib import Path

from gossamer.report.search_page import SearchedRecipe, SearchPage, figure, write_search_page
from tests.report.manifests import Page

HOSTILE = "</script><script>alert(1)</script>"


def recipe(name: str, size_bytes: float, perplexity: float | None, sparse: bool = False) -> SearchedRecipe:
    return SearchedRecipe(
        name=name, file=f"recipes/{name}.yaml", levels="3 int4-g64", sparse=sparse, size_bytes=size_bytes,
        latency_ms=None, perplexity=perplexity, perplexity_ratio=perplexity and perplexity / 20, predicted_ratio=1.25,
    )  # fmt: skip


def page(**changes: object) -> SearchPage:
    values: dict[str, object] = {
        "model": "parent", "budget": "size=60MB", "verdict": "Dense quantization wins.", "notes": ["time is up"],
        "dense_perplexity": 20.0, "perplexity_signature": "ppl|x", "axis": "size", "limited": "size", "limit": 60e6,
        "recipes": [
            recipe("guess", 50e6, None), recipe("dense", 55e6, 24.0), recipe("sparse", 58e6, 26.0, sparse=True),
        ],
    }  # fmt: skip
    return SearchPage(**{**values, **changes})  # type: ignore[arg-type]


def test_predictions_are_a_line_and_verified_models_points_by_kind() -> None:
    drawn = figure(page())
    assert [(series["name"], series["x"], series["y"]) for series in drawn["data"]] == [
        ("predicted", [50.0], [25.0]),
        ("verified, dense", [55.0], [24.0]),
        ("verified, sparse", [58.0], [26.0]),
    ]


def test_the_budget_is_a_dashed_line_across_its_axis() -> None:
    budget, dense = figure(page())["layout"]["shapes"]
    assert (budget["x0"], budget["line"]["dash"]) == (60.0, "dash")
    assert (dense["y0"], dense["line"]["dash"]) == (20.0, "dot")
    lost = figure(page(limited="perplexity", limit=1.1))["layout"]["shapes"][0]
    assert (lost["y0"], lost["y1"]) == (22.0, 22.0)


def test_the_page_tells_measured_from_predicted_and_needs_no_network(tmp_path: Path) -> None:
    write_search_page(page(), tmp_path / "search.html")
    shown = Page((tmp_path / "search.html").read_text(encoding="utf-8"))
    for words in (
        "size=60MB",
        "Dense quantization wins.",
        "time is up",
        "1.200",
        "1.250",
        "recipes/sparse.yaml",
        "ppl|x",
    ):
        assert words in shown.text, words
    assert not any({"src", "href"} & set(attributes) for _, attributes in shown.tags)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    hostile = page(model=HOSTILE, verdict=HOSTILE, recipes=[recipe(HOSTILE, 1e6, 20.0)])
    write_search_page(hostile, tmp_path / "search.html")
    shown = Page((tmp_path / "search.html").read_text(encoding="utf-8"))
    assert len(shown.scripts) == 3
    assert HOSTILE in shown.text
