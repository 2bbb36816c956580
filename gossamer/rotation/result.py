"""What `rotate` returns."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gossamer.rotation.hadamard import Rotation


@dataclass(frozen=True, slots=True)
class RotatedParent:
    """The model that was rotated."""

    path: str
    sha256: str
    """Of its weights."""


@dataclass(frozen=True, slots=True)
class RotationMatrix:
    """An orthogonal matrix that weights were rotated by."""

    size: int
    matrix: str
    """hadamard, or random orthogonal where the size has no Hadamard matrix."""

    @classmethod
    def of(cls, rotation: Rotation | None) -> "RotationMatrix | None":
        if rotation is None:
            return None
        return cls(rotation.size, "hadamard" if rotation.is_hadamard else "random orthogonal")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotated:
    """A rotated model, and what was done to it."""

    folder: Path
    parent: RotatedParent
    what: str
    seed: int
    dtype: str
    values: RotationMatrix | None
    residual: RotationMatrix | None
    """None: not rotated."""
    weights_bytes: int
    untied_bytes: int
    """Of heads that were tied to the embeddings before."""

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {**asdict(self), "folder": str(self.folder)}

    def record(self) -> dict[str, Any]:
        """Return what rotation.json in the folder says: all but where the folder is."""
        values = self.to_dict()
        del values["folder"]
        return values
