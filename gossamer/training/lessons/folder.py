"""A folder of lessons that grows shard by shard: `lessons.json` names those that are complete.

A kill or a power cut at any moment loses at most the shard that was being made: each is written beside its name,
flushed and renamed, and only then named in `lessons.json`, which is replaced in the same way. A later run of the same
command goes on behind the last one.
"""

import contextlib
import fcntl
from pathlib import Path
from types import TracebackType
from typing import Self

from gossamer.checkpoint.write.writer import check_target, disk_errors, resolved
from gossamer.errors import UsageError
from gossamer.training.lessons.answers import Answers
from gossamer.training.lessons.manifest import MANIFEST_NAME, Manifest, read_manifest
from gossamer.training.lessons.shards import read_shard, shard_name, write_shard

LOCK = ".lock"
BESIDE = ".lessons"
"""What files begin with that are not complete yet."""


def check_out(out: str | Path) -> Path:
    """Return the folder to write; UsageError unless it is new, empty, or begun and not finished."""
    folder = resolved(Path(out))
    if not folder.exists():
        check_target(folder, overwrite=False)
        return folder
    if not folder.is_dir():
        raise UsageError(f"{folder} exists already, and is no folder. Choose another --out.")
    if (folder / MANIFEST_NAME).exists():
        if read_manifest(folder).finished:
            raise UsageError(f"{folder} holds finished lessons already. Choose another --out, or delete it.")
    elif any(not entry.name.startswith((LOCK, BESIDE)) for entry in folder.iterdir()):
        raise UsageError(
            f"{folder} exists already, and holds other things than lessons. Choose another --out."
        )
    return folder


class LessonFolder:
    """Use as a context manager: inside, the folder is this run's own. What is complete stays, whatever happens."""

    def __init__(self, out: str | Path, manifest: Manifest) -> None:
        """Raises UsageError for a folder that cannot be written, or was begun by another command."""
        self.folder = check_out(out)
        self.manifest = manifest

    def __enter__(self) -> Self:
        self._made = not self.folder.exists()
        with disk_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
            self._lock = (self.folder / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            check_out(self.folder)
            self._go_on()
        except BlockingIOError as error:
            self._lock.close()
            raise UsageError(f"{self.folder}: another run is writing it just now.") from error
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        done, total = self.manifest.windows_done, self.manifest.windows
        if error is not None and done:
            error.add_note(
                f"{done} of {total} windows are kept in {self.folder}: the same command goes on from there."
            )
        elif error is not None:
            self._undo()
        self._lock.close()

    def _undo(self) -> None:
        """Leave nothing of a run that has written no lesson."""
        for name in (MANIFEST_NAME, LOCK):
            (self.folder / name).unlink(missing_ok=True)
        if self._made:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _go_on(self) -> None:
        for beside in self.folder.glob(f"{BESIDE}*"):
            beside.unlink()
        if not (self.folder / MANIFEST_NAME).exists():
            with disk_errors(self.folder / MANIFEST_NAME):
                self.manifest.write(self.folder)
            return
        begun = read_manifest(self.folder)
        then, now = begun.identity(), self.manifest.identity()
        if changed := [name for name in now if then[name] != now[name]]:
            told = "; ".join(
                f"{name} was {then[name]!s:.160} and is now {now[name]!s:.160}" for name in changed
            )
            raise UsageError(
                f"{self.folder} holds unfinished lessons of another command: {told}. Give what was given then, choose "
                "another --out, or delete the folder."
            )
        for shard in begun.shards:
            read_shard(self.folder, shard, begun)
        self.manifest = begun

    def add(self, arrays: Answers, seconds: float) -> None:
        """Write the next shard. `seconds`: that the whole run has taken so far. DiskError if the disk is full."""
        number = len(self.manifest.shards) + 1
        with disk_errors(self.folder / shard_name(number)):
            shard = write_shard(self.folder, number, arrays)
        manifest = self.manifest.with_shard(shard, seconds)
        with disk_errors(self.folder / MANIFEST_NAME):
            manifest.write(self.folder)
        self.manifest = manifest

    def finish(self) -> Manifest:
        """Say that all is there."""
        self.manifest = self.manifest.model_copy(update={"finished": True})
        with disk_errors(self.folder / MANIFEST_NAME):
            self.manifest.write(self.folder)
        (self.folder / LOCK).unlink(missing_ok=True)
        return self.manifest
