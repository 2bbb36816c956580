"""Write a model folder so that it exists whole or not at all.

Everything goes into a hidden folder beside the target, which is renamed into place at the very end. Whatever
stops the run (error, interrupt, kill -9, full disk), nothing appears under the target's name and nothing that was
there is touched.
"""

import contextlib
import errno
import glob
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gossamer.checkpoint.read.folder import INDEX, SINGLE
from gossamer.checkpoint.read.safetensors_header import read_header
from gossamer.checkpoint.write.parts import checksum, checksums, join
from gossamer.errors import DiskError, RunError, UsageError
from gossamer.files import sync, sync_folder, usual_mode, write_json

SHARD_BYTES = 2_000_000_000


def check_target(out: Path, overwrite: bool, sources: Iterable[Path] = ()) -> None:
    """Raise UsageError unless `out` may be written; `sources` are files that are still needed."""
    out = resolved(out)
    if any(place.resolve().is_relative_to(out) for source in sources for place in (source.parent, source)):
        raise UsageError(f"{out} holds the model that is read: it cannot be replaced by what is made of it.")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already. Choose another --out, or pass --overwrite to replace it.")
    if out.exists() and (not out.is_dir() or not _ours_to_replace(out)):
        raise UsageError(f"{out} exists and is not a model folder: --overwrite will not delete it.")
    parent = out.parent
    if not parent.is_dir():
        raise UsageError(f"{out}: the folder {parent} does not exist. Create it first.")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{out}: the folder {parent} is not writable.")


def resolved(out: Path) -> Path:
    """The path without links; UsageError for one that no file system takes."""
    try:
        out = out.resolve()
        out.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{str(out)[:200]}: cannot be a folder's name ({error!s:.200}).") from error
    return out


def _ours_to_replace(folder: Path) -> bool:
    """True for a model folder (configuration and weights) and for an empty one."""
    weights = any((folder / name).is_file() for name in (SINGLE, INDEX))
    return (weights and (folder / "config.json").is_file()) or not any(folder.iterdir())


class FolderWriter:
    """Collects tensors and files of a model; `commit` makes them appear as the folder `out`.

    Tensors go to `parts`, safetensors files that `finish` links into `folder`; `commit` renames that. Use as a
    context manager: leaving it without `commit` removes everything that was written, unless a `place` was given,
    which is its owner's (checkpoint/write/work_folder.py) to keep or to remove.
    """

    def __init__(self, out: Path, overwrite: bool = False, place: Path | None = None) -> None:
        self.out = resolved(out)
        _remove_abandoned(self.out)
        check_target(self.out, overwrite)
        self.overwrite = overwrite
        self.tensor_bytes: dict[str, int] = {}
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._parts: list[Path] = []
        self._num_parts = 0
        self._checksums: dict[str, int] = {}
        self._owned = place is None
        self._place = place or self.out.parent / f".{self.out.name}.partial-{os.getpid()}"
        self.folder, self._parts_folder = self._place / "model", self._place / "parts"
        shutil.rmtree(self._place if self._owned else self.folder, ignore_errors=True)
        with disk_errors(self.out):
            for folder in (self._place, self.folder, self._parts_folder):
                folder.mkdir(exist_ok=True)

    def __enter__(self) -> "FolderWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned:
            shutil.rmtree(self._place, ignore_errors=True)

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Take tensors under their full names, from any device; much of them goes to disk at once."""
        for name, tensor in tensors.items():
            assert name not in self.tensor_bytes, f"{name} is written twice"
            own = tensor.detach().cpu().contiguous()
            self._pending[name] = own
            self._pending_bytes += own.nbytes
            self.tensor_bytes[name] = own.nbytes
            self._checksums[name] = _checksum(own)
        if self._pending_bytes >= SHARD_BYTES:
            self._flush()

    def add_json(self, name: str, value: object) -> None:
        with disk_errors(self.out):
            write_json(self.folder / name, value)

    def keep(self) -> dict[str, Any]:
        """Flush to disk what was added so far; return what `restore` needs to go on from there, ready for JSON."""
        with disk_errors(self.out):
            self._flush()
            loose = self._loose_parts()
            if sum(part.stat().st_size for part in loose) >= SHARD_BYTES:
                self._join(loose)
            sync_folder(self._parts_folder)
        return {
            "parts": [part.name for part in self._parts],
            "num_parts": self._num_parts,
            "tensor_bytes": self.tensor_bytes,
            "checksums": self._checksums,
        }

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from what `keep` returned; what was written after it is forgotten."""
        self._parts = [self._parts_folder / name for name in kept["parts"]]
        self._num_parts = kept["num_parts"]
        self.tensor_bytes, self._checksums = dict(kept["tensor_bytes"]), dict(kept["checksums"])
        if missing := [part.name for part in self._parts if not part.is_file()]:
            raise RunError(
                f"{self._parts_folder}: {missing[0]} of the stopped run is missing. Start it anew."
            )
        self.remove_unused()

    def remove_unused(self) -> None:
        """Delete parts that were joined into others, or written after the last `keep`."""
        for part in set(self._parts_folder.iterdir()) - set(self._parts):
            part.unlink()

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read back tensors that were flushed."""
        found, wanted = {}, set(names)
        for part in self._parts:
            for name in wanted & set(read_header(part)):
                with safe_open(part, "pt") as content:
                    found[name] = content.get_tensor(name).clone()
        return found

    def finish(self) -> None:
        """Write the last part, read everything back as a check, and give the shards the names that loaders expect.

        Raises RunError when what was written differs from what was given.
        """
        with disk_errors(self.out):
            self._flush()
            if len(loose := self._loose_parts()) > 1:
                self._join(loose)
            self._check_shards()
            self._name_shards()

    def commit(self) -> Path:
        """Flush everything to disk and give the finished folder its name."""
        with disk_errors(self.out):
            for file in (path for path in self.folder.rglob("*") if path.is_file()):
                file.chmod(usual_mode())  # safetensors lets nobody else read
                sync(file)
            self._take_place()
            sync_folder(self.out.parent)
        return self.out

    def _take_place(self) -> None:
        if not (self.overwrite and self.out.exists()):
            check_target(self.out, self.overwrite)
            self.folder.rename(self.out)
            return
        old = self.out.parent / f".{self.out.name}.replaced-{os.getpid()}"
        self.out.rename(old)
        try:
            self.folder.rename(self.out)
        except BaseException:
            old.rename(self.out)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _flush(self) -> None:
        if not self._pending:
            return
        path = self._next_part()
        with disk_errors(self.out):
            save_file(self._pending, path, metadata={"format": "pt"})
            sync(path)
        self._parts.append(path)
        self._pending, self._pending_bytes = {}, 0

    def _next_part(self) -> Path:
        self._num_parts += 1
        return self._parts_folder / f"part-{self._num_parts:05d}"

    def _loose_parts(self) -> list[Path]:
        """The parts after those that are large enough to be shards of their own."""
        whole = itertools.takewhile(lambda part: part.stat().st_size >= SHARD_BYTES, self._parts)
        return self._parts[len(list(whole)) :]

    def _join(self, loose: list[Path]) -> None:
        path = self._next_part()
        join(loose, path)
        self._parts = [*self._parts[: len(self._parts) - len(loose)], path]

    def _check_shards(self) -> None:
        for part in self._parts:
            for name, value in checksums(part).items():
                if value != self._checksums[name]:
                    raise RunError(
                        f"{self.out}: {name}: what was written is not what was given to be written. "
                        "Is the disk failing? Nothing is left behind."
                    )

    def _name_shards(self) -> None:
        """Show the parts in the folder under the names that transformers looks for."""
        if len(self._parts) == 1:
            _link(self._parts[0], self.folder / SINGLE)
            return
        weight_map: dict[str, str] = {}
        for number, part in enumerate(self._parts, start=1):
            name = f"model-{number:05d}-of-{len(self._parts):05d}.safetensors"
            _link(part, self.folder / name)
            weight_map |= dict.fromkeys(read_header(part), name)
        index = {"metadata": {"total_size": sum(self.tensor_bytes.values())}, "weight_map": weight_map}
        write_json(self.folder / INDEX, index)


class Nowhere(FolderWriter):
    """The writer of a process that only helps to calibrate: nothing is written."""

    def __init__(self) -> None:
        return

    def add(self, tensors: dict[str, Tensor]) -> None:
        return


def _link(part: Path, name: Path) -> None:
    """A second name for the same bytes; a copy where the file system has no links."""
    try:
        name.hardlink_to(part)
    except OSError:
        shutil.copyfile(part, name)


def _checksum(tensor: Tensor) -> int:
    return checksum([tensor.reshape(-1).view(torch.uint8).numpy().data])


@contextlib.contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn a full or failing disk into a DiskError that says so."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if full:
            raise DiskError(f"{out}: the disk is full. Nothing was written under that name.") from error
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise DiskError(
                f"{out}: could not be written ({error}). Nothing was written under that name."
            ) from error
        raise


def _remove_abandoned(out: Path) -> None:
    """Delete partial folders of runs that were killed; put back what such a run was just about to replace."""
    for folder in out.parent.glob(f".{glob.escape(out.name)}.*-*"):
        kind, _, process = folder.name.removeprefix(f".{out.name}.").partition("-")
        if not process.isdigit() or Path(f"/proc/{process}").exists() or not Path("/proc").exists():
            continue
        if kind == "replaced" and not out.exists():
            folder.rename(out)
        elif kind in ("partial", "replaced"):
            shutil.rmtree(folder, ignore_errors=True)
