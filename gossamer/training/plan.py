"""What `recover` would do with the same arguments, without training or writing anything."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gossamer.checkpoint.source import Source
from gossamer.progress import Progress, silent
from gossamer.training.enrol import enrol
from gossamer.training.mixture import all_weighted
from gossamer.training.opening import open_both
from gossamer.training.own_text import SELF, OwnText, check_asked, wanted_text, writes_itself
from gossamer.training.recover import check_meant, read
from gossamer.training.schedule import check_effort
from gossamer.training.settings import TrainingSettings
from gossamer.training.shown import kind_of
from gossamer.training.teacher import KEPT_BYTES
from gossamer.training.text import fitting_length, num_held_out

BYTES_OF_MOMENTS = 8
"""Of AdamW, for each number that is trained."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be trained, on what, and what that takes."""

    model: str
    parent: str
    train: str
    mask: str
    kept_weights: int
    """Weights of the matrices that are trained."""
    removed_weights: int
    """Their weights that are zero, and stay it where the mask is fixed."""
    trained: int
    """Numbers that the optimizer moves: kept weights or adapters, norms, biases, scales."""
    optimizer_bytes: int
    dense_optimizer_bytes: int
    """The same if the matrices had no zeros."""
    memory_bytes: int
    """About what student, optimizer and teacher need, without activations and logits."""
    windows: int
    """To learn from."""
    held_out_windows: int
    length: int
    tokens_per_step: int
    learning_rate: float
    minutes: float | None
    steps: int | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return asdict(self)


def plan(
    model: str | Path,
    *,
    parent: str | Path,
    text: Sequence[str | Path] = (),
    lessons: str | Path | None = None,
    self_tokens: int | None = None,
    text_out: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    settings: TrainingSettings | None = None,
    progress: Progress = silent,
) -> Plan:
    """Return what `recover` would do; raises what it would raise, but for the target."""
    settings = settings or TrainingSettings()
    check_effort(steps, minutes)
    source, teacher = open_both(model, parent)
    own = OwnText(self_tokens, None if text_out is None else Path(text_out))
    check_asked(text, own)
    check_meant(kind_of(source.reader.skeleton), text, lessons, settings)
    if writes_itself(text) and lessons is None:
        length, windows, notes = _with_own(source, text, own, settings, steps, minutes, progress)
    else:
        words, _answers = read(source, text, lessons, settings, progress)
        (windows, length), notes = words.ids_NL.shape, []
    student = enrol(
        source,
        settings.train,
        embeddings=settings.embeddings,
        rank=settings.rank,
        seed=settings.seed,
        moves=settings.mask != "fixed",
    )
    moved = sum(each.numel() for each in student.masters().values())
    kept, removed = student.num_kept(), student.num_removed()
    zeros = student.num_removed_of_trained()
    entries = sum(weight.values_n.numel() for _name, weight in student.weights())
    return Plan(
        model=str(model),
        parent=str(parent),
        train=settings.train,
        mask=settings.mask,
        kept_weights=kept,
        removed_weights=removed,
        trained=moved,
        optimizer_bytes=BYTES_OF_MOMENTS * moved,
        dense_optimizer_bytes=BYTES_OF_MOMENTS * (moved + zeros),
        memory_bytes=_of_student(source, entries, moved) + _of_teacher(teacher, windows * length),
        windows=windows - num_held_out(windows),
        held_out_windows=num_held_out(windows),
        length=length,
        tokens_per_step=settings.batch * length,
        learning_rate=settings.rate,
        minutes=minutes,
        steps=steps,
        notes=[*notes, *student.notes],
    )


def _of_student(source: Source, entries: int, moved: int) -> int:
    """Return the bytes of matrices as they are computed with, and of gradients, codes and places of their entries:
    what is kept, or with it what zeros may move to."""
    return 4 * source.num_parameters + 16 * entries + (8 + BYTES_OF_MOMENTS) * moved


def _of_teacher(teacher: Source, tokens: int) -> int:
    """Return the bytes of the parent, and of what is kept of its answers."""
    kept = 4 * tokens * teacher.config.get_text_config().hidden_size
    return 4 * teacher.num_parameters + min(KEPT_BYTES, kept)


def _with_own(
    source: Source,
    text: Sequence[str | Path],
    own: OwnText,
    settings: TrainingSettings,
    steps: int | None,
    minutes: float | None,
    progress: Progress,
) -> tuple[int, int, list[str]]:
    """Return (length, windows, notes) where the parent is to write text, which it does not now."""
    length = fitting_length(source, settings.length)
    wanted = wanted_text(own, settings, length, steps, minutes)
    others = [each.text for each in all_weighted(text) if each.text != SELF]
    windows = len(read(source, others, None, settings, progress)[0].ids_NL) if others else 0
    if wanted.tokens is None:
        assert wanted.seconds is not None
        return (
            length,
            windows,
            [f"the parent writes text for {wanted.seconds:.0f} s: its windows are not counted here"],
        )
    note = f"the parent writes about {wanted.tokens:,} tokens of text first"
    return length, windows + wanted.tokens // length, [note]
