"""Lessons in place of the parent: the numbers that the parent gives, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gossamer
from gossamer.errors import UsageError
from gossamer.training.lessons.reading import Lessons
from gossamer.training.lessons.teacher import LessonTeacher
from gossamer.training.settings import TrainingSettings
from gossamer.training.teacher import DenseTeacher
from tests.training.conftest import Folders

QUICK = TrainingSettings(length=32, batch=4)


@pytest.fixture(scope="module")
def course(folders: Folders, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lessons of the parent with the whole vocabulary kept."""
    parent, _small = folders("half int4")
    out = tmp_path_factory.mktemp("course") / "lessons"
    gossamer.teach(parent, text, out, length=32, windows=40, k=260, engine="torch")
    return out


def test_whole_answers_give_the_divergence_that_the_parent_gives(folders: Folders, course: Path) -> None:
    parent, _small = folders("half int4")
    lessons = Lessons(course)
    ids_BL = lessons.all_ids()[[3, 7]]
    logits_TV = torch.randn(64, 260, generator=torch.Generator().manual_seed(0))
    weight_T = torch.rand(64, generator=torch.Generator().manual_seed(1))
    stored = LessonTeacher(lessons).answer([3, 7], ids_BL).divergence(logits_TV, weight_T, 1.0)
    asked = DenseTeacher(parent).answer([3, 7], ids_BL).divergence(logits_TV.clone(), weight_T, 1.0)
    torch.testing.assert_close(stored, asked, rtol=0.02, atol=0.0)


def test_a_folder_learns_from_lessons_alone_and_says_so(
    folders: Folders, course: Path, tmp_path: Path
) -> None:
    parent, small = folders("half int4")
    made = gossamer.recover(
        small, parent=parent, lessons=course, out=tmp_path / "taught", steps=6, settings=QUICK
    )
    kl = made.record["held_out_kl"]
    assert kl["after"] < kl["before"]
    assert made.record["teacher"] == {
        "kind": "lessons",
        "name": "lessons",
        "teachers": [Path(parent).name],
        "kept": "top-k 260",
    }
    assert made.record["text"]["windows"] == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 2.0}, "--temperature 2: lessons were written at 1"),
        ({"hidden": 1.0}, "--hidden 1: lessons hold no hidden states"),
        ({"teacher_engine": "native"}, "--teacher-engine native: no teacher runs beside lessons"),
        ({"length": 16}, "--length 16: the lessons in .* have windows of 32"),
    ],
)
def test_what_lessons_cannot_do_is_refused(
    changes: dict[str, Any], message: str, folders: Folders, course: Path, tmp_path: Path
) -> None:
    parent, small = folders("half int4")
    settings = replace(QUICK, **changes)
    with pytest.raises(UsageError, match=message):
        gossamer.recover(
            small, parent=parent, lessons=course, out=tmp_path / "out", steps=2, settings=settings
        )


def test_text_and_lessons_together_are_refused(
    folders: Folders, course: Path, text: Path, tmp_path: Path
) -> None:
    parent, small = folders("half int4")
    with pytest.raises(UsageError, match="lessons bring their own text"):
        gossamer.recover(small, parent=parent, text=text, lessons=course, out=tmp_path / "out", steps=2)
