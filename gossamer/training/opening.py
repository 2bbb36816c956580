"""Opening what is changed, and the dense model that it was made of; what cannot be meant is refused."""

from pathlib import Path

from gossamer.checkpoint.manifest import read_manifest
from gossamer.checkpoint.source import Source, open_model
from gossamer.errors import UsageError
from gossamer.training.shown import kind_of


def open_both(model: str | Path, parent: str | Path) -> tuple[Source, Source]:
    """Open the model and its parent.

    Raises UsageError for a parent that is none of this model, or a model that cannot be trained.
    """
    student = open_student(model)
    return student, open_parent(parent, student)


def open_student(model: str | Path) -> Source:
    """Open a compressed or a dense folder; UsageError for what cannot be trained."""
    student = open_model(model)
    if student.kind == "gguf":
        raise UsageError(
            f"{model}: a folder that `gossamer compress` wrote was expected, not a GGUF file. Compress the model first."
        )
    kind_of(student.reader.skeleton)
    return student


def open_parent(parent: str | Path, student: Source) -> Source:
    """Open the dense model that `student` was made of; UsageError for any other."""
    teacher, model = open_model(parent), student.path
    if teacher.kind == "gossamer":
        raise UsageError(f"--parent {parent}: the dense parent was expected, got a compressed folder.")
    kind_of(teacher.reader.skeleton)
    if student.kind == "gossamer":
        known = read_manifest(student.path).get("parent")
        expected = known.get("sha256") if isinstance(known, dict) else None
        if expected is None:
            raise UsageError(
                f"{model}: its manifest does not say which parent it was made of. Compress the parent again."
            )
        if expected != teacher.fingerprint():
            name = known.get("name") if isinstance(known, dict) else "?"
            raise UsageError(
                f"--parent {parent}: {model} was made of another model, {name} with SHA-256 {expected[:16]}...; this "
                f"one has {teacher.fingerprint()[:16]}.... Give the parent that it was made of."
            )
    own, other = (each.config.get_text_config().vocab_size for each in (student, teacher))
    if own != other:
        raise UsageError(
            f"--parent {parent}: has {other:,} tokens, {model} {own:,}; they must have the same."
        )
    return teacher
