"""The one place that writes files whole or not at all: beside the name, flushed to disk, then renamed.

A stop at any moment (error, kill, power cut) leaves what was there, or all that is new.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the name `path` when the block ends without an error; else nothing is left of it.

    OSError if the folder or the disk does not take it.
    """
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        beside = Path(file.name)
        try:
            yield file
            file.flush()
            put_in_place(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def put_in_place(beside: Path, path: Path) -> None:
    """Give a complete file its name: with the usual permissions, and flushed, so that both outlive a power cut."""
    beside.chmod(usual_mode())
    sync(beside)
    beside.replace(path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all; what is no text (a lone surrogate) becomes a question mark."""
    with written_whole(path) as file:
        file.write(text.encode("utf-8", "replace"))


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all; TypeError for what JSON cannot hold."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_text(path, text)


def sync(path: Path) -> None:
    """Flush a file to disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, so that they outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def usual_mode() -> int:
    """The permissions that new files get from this process; temporary files have narrower ones."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
