"""What a search has found so far, in a file, so that it can go on after it was stopped.

The file holds the arguments that decide what is measured, and the measurements by key. The same arguments must be given
to go on; how long to search may differ.
"""

import json
import time
from pathlib import Path
from typing import Any

from gossamer.errors import UsageError
from gossamer.files import write_json

STATE_FILE = "state.json"
VERSION = 1
SAVE_SECONDS = 5.0


class State:
    """Measurements by section and key; written to disk at most every few seconds, and when asked."""

    def __init__(self, folder: Path, arguments: dict[str, object]) -> None:
        self.path = folder / STATE_FILE
        self._saved = time.monotonic()
        self.sections: dict[str, dict[str, Any]] = {}
        self.arguments = arguments
        self.resumed = self.path.is_file()
        if self.resumed:
            self.sections = _read(self.path, arguments)
        else:
            self.save()

    def section(self, name: str) -> dict[str, Any]:
        """The measurements of one section, to be looked up and added to with `put`."""
        return self.sections.setdefault(name, {})

    def put(self, section: str, key: str, value: object) -> None:
        """Keep a JSON-able measurement."""
        self.section(section)[key] = value
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the file, complete or not at all."""
        write_json(self.path, {"version": VERSION, "arguments": self.arguments, "sections": self.sections})
        self._saved = time.monotonic()


def _read(path: Path, arguments: dict[str, object]) -> dict[str, dict[str, Any]]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        version, before, sections = stored["version"], stored["arguments"], stored["sections"]
        sound = isinstance(before, dict) and all(isinstance(each, dict) for each in sections.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path}: not readable ({error!s:.200}). Remove the folder, or choose another -o."
        ) from error
    if not sound or version != VERSION:
        raise UsageError(f"{path}: of another version of Gossamer. Remove the folder, or choose another -o.")
    for key in sorted({*before, *arguments}):
        if before.get(key) != arguments.get(key):
            raise UsageError(
                f"{path.parent}: a search with {key} {before.get(key)!r:.100} was begun here, and now {key} is "
                f"{arguments.get(key)!r:.100}. Give the same arguments to go on, or another -o to start anew."
            )
    return sections
