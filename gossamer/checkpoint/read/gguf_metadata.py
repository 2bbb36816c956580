"""Typed access to the metadata of a GGUF file that belong to its architecture."""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gossamer.checkpoint.read.gguf_header import GGUFFile
from gossamer.errors import CheckpointError

Value = TypeVar("Value", int, float, str)
LARGEST = 2**31


@dataclass(frozen=True, slots=True)
class Metadata:
    """Typed access to the metadata under `architecture.`"""

    file: GGUFFile
    architecture: str

    def get(self, key: str, kind: type[Value], default: Value | None = None) -> Value:
        """Return `architecture.key`, the one number of all layers; CheckpointError if absent without a default.

        Raises CheckpointError, too, for a value of another type, or numbers that differ between layers.
        """
        full = f"{self.architecture}.{key}"
        value: Any = self.file.metadata.get(full, default)
        if isinstance(value, np.ndarray) and len(value) and (value == value[0]).all():
            value = value[0].item()  # one number for each layer, all alike
        if kind is float and type(value) is int:
            value = float(value)
        sound = type(value) is kind and (not isinstance(value, int | float) or math.isfinite(value))
        if not sound or (kind is int and not 0 < value < LARGEST):
            raise CheckpointError(
                f"{self.file.path}, key {full!r}: expected {_WORDS[kind]}, got {value!r:.60}. "
                "The file is corrupted or of a variant that is not handled."
            )
        return value

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.file.metadata


_WORDS = {int: "a positive whole number", float: "a finite number", str: "text"}
