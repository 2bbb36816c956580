"""Windows to learn from and windows that judge."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from gossamer.checkpoint.source import open_model
from gossamer.errors import DataError
from gossamer.progress import silent
from gossamer.training.text import TrainingText, read_text
from tests.training.conftest import Folders


def words(folders: Folders, *texts: Path, length: int = 32) -> TrainingText:
    return read_text(open_model(folders("float")[0]), texts, length, 0, silent)


def test_windows_that_judge_are_kept_apart_and_spread_over_the_text(folders: Folders, text: Path) -> None:
    found = words(folders, text)
    assert len(found.held_out) == 8
    assert not set(found.held_out) & set(found.learnt)
    assert len(found.held_out) + len(found.learnt) == len(found.ids_NL) == found.record["windows"]
    assert max(found.held_out) - min(found.held_out) > 0.8 * len(found.ids_NL)


def test_each_epoch_gives_every_window_once_and_can_be_entered_anywhere(folders: Folders, text: Path) -> None:
    found = words(folders, text)
    size = len(found.learnt)
    whole = list(islice(found.order(5, 0), 2 * size + 7))
    assert sorted(whole[:size]) == sorted(whole[size : 2 * size]) == sorted(found.learnt)
    assert whole[:size] != whole[size : 2 * size]
    for position in (1, size - 1, size, size + 3):
        assert list(islice(found.order(5, position), 5)) == whole[position : position + 5]
    assert list(islice(found.order(6, 0), size)) != whole[:size]


def test_several_texts_are_learnt_from_and_named(folders: Folders, text: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("Another story about a bridge and a boat. " * 20)
    both, one = words(folders, text, more), words(folders, text)
    assert both.record["source"] == "spiders.txt, more.txt"
    assert both.record["tokens"] > one.record["tokens"]
    assert both.record["fingerprint"] != one.record["fingerprint"]


def test_one_window_is_not_enough_to_learn_and_to_judge(folders: Folders, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a" * 40)
    with pytest.raises(DataError, match="two windows of 32 tokens are needed"):
        words(folders, short)
    short.write_text("a" * 64)
    found = words(folders, short)
    assert (len(found.learnt), len(found.held_out)) == (1, 1)
    assert torch.equal(found.ids_NL.flatten()[:3], torch.full((3,), int(found.ids_NL[0, 0])))
