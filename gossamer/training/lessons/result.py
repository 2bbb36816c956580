"""What `teach` returns, and what `--dry-run` tells."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class LessonPlan:
    """What would be taught."""

    teachers: list[str]
    engines: list[str]
    kind: str
    count: int
    vocabulary: int
    windows: int
    length: int
    tokens: int
    bytes_per_token: float
    """Of text and lesson, without the headers of the files."""
    size_bytes: int
    notes: list[str]
    """What is not as one would expect, such as a model that the native engine does not know."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Taught:
    """Lessons that are finished."""

    folder: Path
    plan: LessonPlan
    size_bytes: int
    """All files of the folder."""
    bytes_per_token: float
    """The same, for each token."""
    seconds: float
    """Over all runs, where it was stopped and went on."""
    tokens_per_s: float
    resumed_windows: int
    """That an earlier run had finished."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        own = {
            name: getattr(self, name)
            for name in ("size_bytes", "bytes_per_token", "seconds", "tokens_per_s", "resumed_windows")
        }
        return {"folder": str(self.folder), **self.plan.to_dict(), **own}
