"""The search from end to end on tiny models: what it finds, and what it refuses."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gossamer
from gossamer.checkpoint.manifest import read_manifest
from gossamer.data.sources import read_documents
from gossamer.errors import DataError, UsageError
from gossamer.frontier import costs, problem
from gossamer.frontier.results import SearchResult
from gossamer.recipe.reader import load_recipe
from tests.frontier.searches import BUDGET, QUICK


@pytest.fixture(scope="module")
def found(
    parent: Callable[[str], Path], text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SearchResult]:
    """A search that ran to its end. Not to be changed."""
    out = tmp_path_factory.mktemp("search") / "found"
    return out, gossamer.search(parent("llama"), budget=BUDGET, text=text, out=out, keep=True, **QUICK)


# ---- what it finds ----------------------------------------------------------------------------------------


def test_the_chosen_point_is_the_best_verified_one_within_the_budget(
    found: tuple[Path, SearchResult],
) -> None:
    _, result = found
    within = [point for point in result.points if point.within_budget]
    assert result.reached is True
    assert result.chosen.verified.size_bytes <= 85e3
    assert result.chosen.verified.perplexity == min(point.verified.perplexity for point in within)


def test_the_front_is_made_of_verified_points_that_nothing_beats(found: tuple[Path, SearchResult]) -> None:
    _, result = found
    front = [point.verified for point in result.front]
    sizes = [figures.size_bytes for figures in front]
    perplexities = [figures.perplexity for figures in front]
    assert sizes == sorted(sizes)
    assert perplexities == sorted(perplexities, reverse=True)
    for point in result.points:
        if point.verified:
            assert any(
                figures.size_bytes <= point.verified.size_bytes
                and figures.perplexity <= point.verified.perplexity
                for figures in front
            )


def test_dense_and_sparse_recipes_are_both_verified_and_the_winner_is_said(
    found: tuple[Path, SearchResult],
) -> None:
    _, result = found
    verified = [point for point in result.points if point.verified]
    assert {True, False} <= {point.sparse for point in verified}
    winner = (
        r"A recipe with \d+ of 16 matrices sparse wins" if result.chosen.sparse else "Dense quantization wins"
    )
    assert re.match(winner, result.verdict)


def test_the_recipe_alone_gives_the_model_that_was_verified(
    found: tuple[Path, SearchResult], parent: Callable[[str], Path], tmp_path: Path
) -> None:
    out, result = found
    made = gossamer.compress(
        parent("llama"), str(out / "chosen.yaml"), out=tmp_path / "again", text=str(out / "calibration.jsonl")
    )
    figures = gossamer.evaluate(made.folder, text=out / "heldout.jsonl", num_windows=2)
    assert made.manifest["size"]["weights_bytes"] == result.chosen.verified.weights_bytes
    assert figures.perplexity == pytest.approx(result.chosen.verified.perplexity, rel=1e-6)


def test_every_point_has_a_recipe_that_can_be_read(found: tuple[Path, SearchResult]) -> None:
    out, result = found
    for point in result.points:
        assert load_recipe(str(out / point.recipe)).steps
    assert sorted(path.name for path in (out / "recipes").iterdir()) == sorted(
        Path(point.recipe).name for point in result.points
    )


def test_predicted_sizes_become_exact_once_one_model_was_written(found: tuple[Path, SearchResult]) -> None:
    _, result = found
    later = [point for point in result.points if point.verified][1:]
    for point in later:
        assert point.predicted.size_bytes == pytest.approx(point.verified.size_bytes, abs=5e3)


def test_the_kept_model_is_the_chosen_one_and_candidates_are_gone(found: tuple[Path, SearchResult]) -> None:
    out, result = found
    model = Path(result.files.model)
    assert gossamer.load(model).model is not None
    assert read_manifest(model)["size"]["weights_bytes"] == result.chosen.verified.weights_bytes
    assert {path.name for path in out.iterdir()} == {
        "calibration.jsonl", "heldout.jsonl", "state.json", "search.json", "search.html", "chosen.yaml", "recipes",
        "model",
    }  # fmt: skip


def test_calibration_and_judgement_share_no_text(found: tuple[Path, SearchResult]) -> None:
    out, _ = found
    seen = {line for each in read_documents(out / "calibration.jsonl") for line in each.text.splitlines()}
    judged = {line for each in read_documents(out / "heldout.jsonl") for line in each.text.splitlines()}
    assert not (seen - {""}) & (judged - {""})


def test_the_page_needs_no_network_and_draws_every_verified_point(found: tuple[Path, SearchResult]) -> None:
    out, result = found
    page = html.unescape((out / "search.html").read_text(encoding="utf-8"))
    assert "default-src 'none'" in page
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", page.partition("<script>")[0])
    assert page.count("<script") == 3
    figure = json.loads(re.findall(r'<script type="application/json" id="front">(.*?)</script>', page)[0])
    names = {name for series in figure["data"] for name in series["text"]}
    assert {point.name for point in result.points} <= names
    assert json.loads((out / "search.json").read_text()) == result.to_dict()


@pytest.mark.parametrize("budget", [BUDGET, "latency=1s"])
def test_low_rank_parts_are_searched_verified_and_told(
    budget: str,
    parent: Callable[[str], Path],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (costs, problem):
        monkeypatch.setattr(module, "DENSE", ("int4-g64-rank3", "int3-g64-rank6"))
        monkeypatch.setattr(module, "SPARSE", ("nm4of16-int4-g64-rank3",))
    out = tmp_path / "o"
    result = gossamer.search(parent("llama"), budget=budget, text=text, out=out, keep=True, **QUICK)
    assert result.reached is True
    assert "14 of 16 matrices with a low-rank part" in result.verdict
    assert all("-rank" in level for level in result.chosen.levels if level.startswith("int"))
    assert result.chosen.verified.engine == "native"
    tensors = read_manifest(out / "model")["tensors"].values()
    assert sum(each["meta"]["format"] == "low_rank" for each in tensors) == 14
    assert "eora" in {step.method for step in load_recipe(str(out / "chosen.yaml")).steps}
    assert "-rank3" in (out / "search.html").read_text(encoding="utf-8")


# ---- other budgets ----------------------------------------------------------------------------------------


def test_a_perplexity_budget_gives_the_smallest_model_that_keeps_it(
    parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    result = gossamer.search(parent("qwen2"), budget="perplexity=+3%", text=text, out=tmp_path / "o", **QUICK)
    assert result.reached is True
    chosen = result.chosen.verified
    assert chosen.perplexity_ratio <= 1.03
    smaller = [
        point.verified
        for point in result.points
        if point.verified and point.verified.size_bytes < chosen.size_bytes
    ]
    assert all(figures.perplexity_ratio > 1.03 for figures in smaller)


def test_a_latency_budget_is_searched_in_milliseconds_of_this_machine(
    parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    result = gossamer.search(parent("llama"), budget="latency=1s", text=text, out=tmp_path / "o", **QUICK)
    assert result.reached is True
    assert 0 < result.chosen.verified.latency_ms <= 1000
    assert result.chosen.predicted.latency_ms > 0
    state = json.loads((tmp_path / "o/state.json").read_text())
    assert all(each > 0 for each in state["sections"]["milliseconds"].values())
    for each in state["sections"]["verified"].values():  # the kernels were timed on a busier machine
        each["latency_ms"] = 1e-9
    (tmp_path / "o/state.json").write_text(json.dumps(state))
    again = gossamer.search(parent("llama"), budget="latency=1s", text=text, out=tmp_path / "o", **QUICK)
    assert all(point.predicted.latency_ms > 0 for point in again.points)


def test_a_perplexity_that_nothing_keeps_is_missed_by_the_nearest(
    parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    result = gossamer.search(
        parent("llama"), budget="perplexity=+0.0000001%", text=text, out=tmp_path / "o", **QUICK
    )
    best = min(point.verified.perplexity for point in result.points if point.verified)
    assert result.chosen.verified.perplexity == best
    if result.reached:  # rounding may help a random model
        assert result.chosen.verified.perplexity_ratio <= 1 + 1e-9
    else:
        assert "was not reached. The nearest that was verified" in result.verdict


@pytest.mark.parametrize(
    ("budget", "words"), [("size=20KB", "MB"), ("latency=0.01us", "ms for the products")]
)
def test_a_budget_out_of_reach_is_refused_with_the_nearest(
    budget: str, words: str, parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"out of reach. The nearest.*{words}"):
        gossamer.search(parent("llama"), budget=budget, text=text, out=tmp_path / "o", **QUICK)
    assert budget.startswith("latency") or not (tmp_path / "o").exists()


# ---- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"windows": 3}, "windows"), ({"samples": 5}, "calibration")],
)
def test_other_arguments_are_refused_in_the_same_folder(
    changed: dict[str, Any],
    word: str,
    found: tuple[Path, SearchResult],
    parent: Callable[[str], Path],
    text: Path,
) -> None:
    out, _ = found
    before = (out / "state.json").read_bytes()
    with pytest.raises(UsageError, match=f"a search with {word}"):
        gossamer.search(parent("llama"), text=text, out=out, **{"budget": BUDGET, **QUICK, **changed})
    assert (out / "state.json").read_bytes() == before


def test_a_folder_that_holds_something_else_is_left_alone(
    parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="no search was begun there"):
        gossamer.search(parent("llama"), budget=BUDGET, text=text, out=tmp_path, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_text_that_is_missing_or_too_short_leaves_nothing_behind(
    parent: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no such file"):
        gossamer.search(
            parent("llama"), budget=BUDGET, text=tmp_path / "none.txt", out=tmp_path / "o", **QUICK
        )
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match="too short"):
        gossamer.search(parent("llama"), budget=BUDGET, text=tmp_path / "a.txt", out=tmp_path / "o", **QUICK)
    assert not (tmp_path / "o").exists()


def test_only_dense_causal_models_are_searched(
    parent: Callable[[str], Path], compressed: Callable[[str], Any], text: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no causal model"):
        gossamer.search(parent("bert"), budget=BUDGET, text=text, out=tmp_path / "o", **QUICK)
    with pytest.raises(UsageError, match="compressed already"):
        gossamer.search(compressed("llama").folder, budget=BUDGET, text=text, out=tmp_path / "o", **QUICK)
    with pytest.raises(UsageError, match="no plan for this model"):
        gossamer.search(parent("opt"), budget="latency=5ms", text=text, out=tmp_path / "o", **QUICK)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"minutes": 0}, "minutes > 0"), ({"minutes": float("nan")}, "minutes > 0"), ({"windows": 0}, "windows >= 1"),
     ({"samples": 0}, "--samples 0"), ({"length": 2}, "--length 2")],
)  # fmt: skip
def test_impossible_numbers_are_refused(
    changed: dict[str, Any], words: str, parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        gossamer.search(parent("llama"), budget=BUDGET, text=text, out=tmp_path / "o", **{**QUICK, **changed})
    assert not (tmp_path / "o").exists()


def test_a_model_without_a_plan_is_searched_through_torch(
    parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    result = gossamer.search(parent("opt"), budget="perplexity=+5%", text=text, out=tmp_path / "o", **QUICK)
    assert result.chosen.verified.engine == "torch"
    assert result.chosen.verified.latency_ms is None
