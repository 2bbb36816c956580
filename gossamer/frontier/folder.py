"""The folder of a search: made, or opened where an earlier search left off."""

import os
from pathlib import Path

from gossamer.data.sources import read_documents
from gossamer.errors import GossamerError, UsageError
from gossamer.frontier.split import split_text
from gossamer.frontier.state import STATE_FILE, State


def open_folder(text: str, out: Path, arguments: dict[str, object]) -> tuple[State, tuple[Path, Path]]:
    """Return the state of the search in `out` and the text in two parts (calibration, held out).

    Raises:
        UsageError: the folder is not one of a search with these arguments, or cannot be made.
        DataError: the text is missing or too short; a folder that was made for it is gone again.
    """
    fresh = not (out / STATE_FILE).is_file()
    if fresh and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists, and no search was begun there. Choose another folder with -o.")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise UsageError(f"{out}: the folder {out.parent} does not exist or is not writable.")
    if fresh:
        read_documents(text)  # a missing text is found before anything is written
    out.mkdir(exist_ok=True)
    try:
        return State(out, arguments), split_text(text, out)
    except GossamerError:
        if fresh:
            _remove_begun(out)
        raise


def _remove_begun(out: Path) -> None:
    """Undo the making of a folder in which nothing was found yet."""
    for file in out.iterdir():
        file.unlink()
    out.rmdir()
