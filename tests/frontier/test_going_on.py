"""A search that runs out of time, is stopped, or is asked for something else in the same folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gossamer
from gossamer.errors import CalibrationError
from gossamer.frontier import candidates
from gossamer.frontier import search as loop
from gossamer.frontier.record import Figures
from gossamer.recipe.reader import load_recipe
from tests.frontier.searches import BUDGET, QUICK


def test_without_time_nothing_is_verified_and_the_prediction_is_called_one(
    parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    quick = {**QUICK, "minutes": 1e-4}
    result = gossamer.search(parent("llama"), budget=BUDGET, text=text, out=tmp_path / "o", **quick)
    assert result.reached is None
    assert result.chosen.verified is None
    assert "Give more --minutes" in result.verdict
    assert any("time is up" in note for note in result.notes)
    assert load_recipe(str(tmp_path / "o/chosen.yaml")).steps
    again = gossamer.search(parent("llama"), budget=BUDGET, text=text, out=tmp_path / "o", **QUICK)
    assert again.reached is True


def test_a_finished_search_measures_nothing_again(
    parent: Callable[[str], Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gossamer.search(parent("llama"), budget=BUDGET, text=text, out=tmp_path / "o", **QUICK)
    for module, name in ((loop, "verify"), (loop, "measure_dense"), (candidates, "refine")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("measured again"))
    again = gossamer.search(parent("llama"), budget=BUDGET, text=text, out=tmp_path / "o", **QUICK)
    assert again.chosen == first.chosen
    assert again.points == first.points


def test_a_search_that_was_stopped_goes_on(parent: Callable[[str], Path], text: Path, tmp_path: Path) -> None:
    def stop(what: str, _done: int, _total: int) -> None:
        if what.startswith("verifying 2"):
            raise KeyboardInterrupt

    out = tmp_path / "o"
    with pytest.raises(KeyboardInterrupt):
        gossamer.search(parent("llama"), budget=BUDGET, text=text, out=out, progress=stop, **QUICK)
    before = json.loads((out / "state.json").read_text())["sections"]
    assert len(before["verified"]) == 1
    seen: list[str] = []
    gossamer.search(
        parent("llama"),
        budget=BUDGET,
        text=text,
        out=out,
        progress=lambda what, *_: seen.append(what),
        **QUICK,
    )
    assert not any(what.startswith(("verifying 1:", "sensitivity of embedding")) for what in seen)
    after = json.loads((out / "state.json").read_text())["sections"]
    assert before["kl"] == after["kl"]
    assert before["verified"].items() <= after["verified"].items()


def test_another_budget_in_the_same_folder_profits_from_what_was_measured(
    parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    first = gossamer.search(parent("llama"), budget=BUDGET, text=text, out=out, **QUICK)
    before = json.loads((out / "state.json").read_text())["sections"]
    second = gossamer.search(parent("llama"), budget="perplexity=+2%", text=text, out=out, **QUICK)
    after = json.loads((out / "state.json").read_text())["sections"]
    assert second.budget == "perplexity=+2%"
    assert second.chosen.verified.perplexity_ratio <= 1.02
    assert before["kl"] == after["kl"]
    assert before["verified"].items() <= after["verified"].items()
    names = {point.name for point in first.points if point.verified}
    assert names <= {point.name for point in second.points}


def test_a_recipe_that_fails_is_noted_and_the_others_go_on(
    parent: Callable[[str], Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(*_arguments: Any, **_settings: Any) -> Figures:
        calls.append(1)
        raise CalibrationError("no good")

    monkeypatch.setattr(loop, "verify", broken)
    result = gossamer.search(parent("llama"), budget=BUDGET, text=text, out=tmp_path / "o", **QUICK)
    assert len(calls) >= 2
    assert result.reached is None
    assert any("no good" in note for note in result.notes)
