"""Stored lessons as the teacher of a run: nobody has to run the teacher's model again.

B windows of L tokens, T = B L tokens, V entries of the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gossamer.errors import UsageError
from gossamer.training.lessons.divergence import Lesson, kl
from gossamer.training.lessons.reading import Lessons
from gossamer.training.objective import Objective


class LessonTeacher:
    """Answers for the windows of a folder of lessons, by their numbers."""

    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons

    def answer(self, numbers: Sequence[int], ids_BL: Tensor, *, hidden: bool = False) -> "LessonAnswer":
        """Return the lessons on these windows; lessons have no hidden states."""
        assert not hidden
        batch = self._lessons.batch(numbers)
        assert batch.ids_BL.equal(ids_BL)
        return LessonAnswer(batch.lesson)

    def record(self) -> dict[str, Any]:
        """Return who taught, and what was kept of it; JSON."""
        manifest = self._lessons.manifest
        return {
            "kind": "lessons",
            "name": self._lessons.folder.name,
            "teachers": [teacher.name for teacher in manifest.teachers],
            "kept": f"{manifest.kind} {manifest.count}",
        }


class LessonAnswer:
    """What was kept of a teacher's predictions."""

    hidden: Sequence[Tensor] = ()

    def __init__(self, lesson: Lesson) -> None:
        self._lesson = lesson

    def divergence(self, logits_TV: Tensor, weight_T: Tensor, temperature: float) -> Tensor:
        """Return the weighted sum of the divergences."""
        assert temperature == 1
        logits_BLV = logits_TV.view(*self._lesson.ids_BK.shape[:-1], -1)
        return (kl(logits_BLV, self._lesson).flatten() * weight_T).sum()


def check_objective(objective: Objective) -> None:
    """Raise UsageError for what lessons cannot answer."""
    if objective.temperature != 1:
        raise UsageError(
            f"--temperature {objective.temperature:g}: lessons were written at 1. Give --text, and the parent teaches."
        )
    if objective.hidden:
        raise UsageError(
            f"--hidden {objective.hidden:g}: lessons hold no hidden states. Give --text, and the parent teaches."
        )
