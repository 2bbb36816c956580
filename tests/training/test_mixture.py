"""Texts with weights: which windows of each are learnt from."""

from pathlib import Path

import pytest
import torch

from gossamer.checkpoint.source import open_model
from gossamer.errors import DataError, UsageError
from gossamer.progress import silent
from gossamer.training.mixture import WeightedText, all_weighted, shares, spread, weighted
from gossamer.training.text import TrainingText, read_text
from tests.training.conftest import Folders


def words(folders: Folders, *texts: str | Path) -> TrainingText:
    return read_text(open_model(folders("float")[0]), texts, 32, 0, silent)


@pytest.fixture
def boats(tmp_path: Path) -> Path:
    path = tmp_path / "boats.txt"
    path.write_text(" ".join(f"Boat number {number} left the harbour." for number in range(200)))
    return path


def test_a_weight_is_what_stands_behind_the_last_colon_and_a_path_that_exists_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:0.5").write_text("x")
    assert weighted("a:0.5") == WeightedText("a:0.5")
    assert weighted("a:0.5:2") == WeightedText("a:0.5", 2.0)
    assert weighted("self:0.25") == WeightedText("self", 0.25)
    for plain in ("b.txt", "datasets:owner/name:train:text", Path("c:0.5")):
        assert weighted(plain) == WeightedText(plain)
    assert str(weighted("b:0.50")) == "b:0.5"


@pytest.mark.parametrize("bad", ["b:0", "b:-1", "b:inf", "b:nan"])
def test_a_weight_has_to_be_a_number_above_zero(bad: str) -> None:
    with pytest.raises(UsageError, match="above 0"):
        weighted(bad)


def test_all_texts_have_a_weight_or_none_has(folders: Folders) -> None:
    with pytest.raises(UsageError, match=r"--text b: has no weight"):
        all_weighted(["a:1", "b"])
    assert [each.weight for each in all_weighted(["a", "b"])] == [None, None]


@pytest.mark.parametrize(
    ("windows", "weights", "wanted"),
    [
        ([100, 100], [0.5, 0.5], [100, 100]),
        ([100, 100], [3.0, 1.0], [100, 33]),
        ([1000, 10], [0.5, 0.5], [10, 10]),
        ([50, 7, 90], [0.2, 0.1, 0.7], [14, 7, 49]),
        ([5, 400], [0.999, 0.001], [5, 1]),
    ],
)
def test_the_text_that_is_short_of_its_share_is_used_up(
    windows: list[int], weights: list[float], wanted: list[int]
) -> None:
    assert shares(windows, weights) == wanted


@pytest.mark.parametrize(("count", "there"), [(1, 1), (1, 9), (4, 9), (9, 9), (33, 100)])
def test_the_windows_taken_are_different_and_reach_over_the_whole_text(count: int, there: int) -> None:
    found = spread(count, there)
    assert len(set(found)) == count
    assert found == sorted(found)
    gaps = [b - a for a, b in zip([-1, *found], [*found, there], strict=True)]
    assert max(gaps) <= there / count + 1


def test_windows_come_from_each_text_in_its_share_and_judge_in_it_too(
    folders: Folders, text: Path, boats: Path
) -> None:
    found = words(folders, f"{text}:0.75", f"{boats}:0.25")
    spiders, harbour = found.record["sources"]
    assert spiders["windows"] == pytest.approx(3 * harbour["windows"], abs=2)
    assert harbour["windows"] == harbour["windows_there"] or spiders["windows"] == spiders["windows_there"]
    assert spiders["tokens"] + harbour["tokens"] == found.record["tokens"] == found.ids_NL.numel()
    alone = words(folders, boats).ids_NL
    taken = found.ids_NL[spiders["windows"] :]
    assert all(any(torch.equal(one, other) for other in alone) for one in taken)
    judging = sum(number >= spiders["windows"] for number in found.held_out)
    assert judging == pytest.approx(len(found.held_out) / 4, abs=1)


def test_a_text_without_a_whole_window_is_named(folders: Folders, text: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a" * 20)
    with pytest.raises(DataError, match=r"short\.txt"):
        words(folders, f"{text}:0.5", f"{tmp_path / 'short.txt'}:0.5")
