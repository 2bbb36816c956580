"""A search that recovers what it has chosen."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gossamer
from gossamer.checkpoint.manifest import read_manifest
from gossamer.errors import UsageError
from gossamer.frontier.results import SearchResult
from tests.frontier.searches import BUDGET, QUICK


@pytest.fixture(scope="module")
def recovered(
    parent: Callable[[str], Path], text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SearchResult]:
    out = tmp_path_factory.mktemp("search") / "found"
    return out, search(parent, text, out, recover_steps=6)


def search(parent: Callable[[str], Path], text: Path, out: Path, **more: Any) -> SearchResult:
    return gossamer.search(parent("llama"), budget=BUDGET, text=text, out=out, **QUICK, **more)


def test_the_chosen_model_is_recovered_in_the_same_bytes_and_judged_like_the_points(
    recovered: tuple[Path, SearchResult],
) -> None:
    out, result = recovered
    figures, chosen = result.recovered, result.chosen.verified
    assert figures is not None
    assert figures.model == str(out / "recovered")
    assert figures.ratio_before == pytest.approx(chosen.perplexity_ratio, rel=1e-6)
    again = gossamer.evaluate(figures.model, text=out / "heldout.jsonl", num_windows=QUICK["windows"])
    assert figures.perplexity == pytest.approx(again.perplexity, rel=1e-6)
    manifest = read_manifest(figures.model)
    assert manifest["size"]["weights_bytes"] == chosen.weights_bytes
    assert [run["steps"] for run in manifest["recovery"]] == [6]
    assert figures.tokens == manifest["recovery"][0]["tokens"]
    written = json.loads((out / "search.json").read_text(encoding="utf-8"))
    assert written["recovered"]["perplexity"] == figures.perplexity


def test_the_same_call_finds_it_there_and_another_effort_makes_it_anew(
    recovered: tuple[Path, SearchResult], parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    out, result = recovered
    made = read_manifest(out / "recovered")["recovery"][0]["created"]
    assert search(parent, text, out, recover_steps=6).recovered == result.recovered
    assert read_manifest(out / "recovered")["recovery"][0]["created"] == made
    shutil.copytree(out, tmp_path / "copy")
    longer = search(parent, text, tmp_path / "copy", recover_steps=7).recovered
    assert longer is not None
    assert longer.tokens > result.recovered.tokens
    assert len(read_manifest(longer.model)["recovery"]) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"recover_steps": 0}, "at least 1"),
        ({"recover_minutes": 0.0}, "positive"),
        ({"recover_minutes": 1.0, "recover_steps": 1}, "one of the two"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_measured(
    parent: Callable[[str], Path], text: Path, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        search(parent, text, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()
