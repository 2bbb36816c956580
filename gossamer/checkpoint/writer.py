"""Write a model folder so that it exists whole or not at all.

Everything goes into a hidden folder beside the target, which is renamed into place at the very end. Whatever
stops the run (error, interrupt, kill -9, full disk), nothing appears under the target's name and nothing that was
there is touched.
"""

import contextlib
import errno
import glob
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gossamer.checkpoint.folder import INDEX, SINGLE
from gossamer.checkpoint.manifest import usual_mode, write_json
from gossamer.errors import RunError, UsageError

SHARD_BYTES = 2_000_000_000


def check_target(out: Path, overwrite: bool, sources: Iterable[Path] = ()) -> None:
    """Raise UsageError unless `out` may be written; `sources` are files that are still needed."""
    out = _resolved(out)
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


def _resolved(out: Path) -> Path:
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

    Use as a context manager: leaving it without `commit` removes everything that was written.
    """

    def __init__(self, out: Path, overwrite: bool = False) -> None:
        self.out = _resolved(out)
        _remove_abandoned(self.out)
        check_target(self.out, overwrite)
        self.overwrite = overwrite
        self.weight_map: dict[str, str] = {}
        self.tensor_bytes: dict[str, int] = {}
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[Path] = []
        self._checksums: dict[str, int] = {}
        self.folder = self.out.parent / f".{self.out.name}.partial-{os.getpid()}"
        shutil.rmtree(self.folder, ignore_errors=True)
        with disk_errors(self.out):
            self.folder.mkdir()

    def __enter__(self) -> "FolderWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Take tensors under their full names; full shards go to disk at once."""
        for name, tensor in tensors.items():
            assert name not in self._pending and name not in self.weight_map, f"{name} is written twice"
            self._pending[name] = tensor.detach().contiguous()
            self._pending_bytes += tensor.nbytes
            self.tensor_bytes[name] = tensor.nbytes
            self._checksums[name] = _checksum(tensor)
        if self._pending_bytes >= SHARD_BYTES:
            self._flush()

    def add_json(self, name: str, value: Any) -> None:
        with disk_errors(self.out):
            write_json(self.folder / name, value)

    def finish(self) -> None:
        """Write the last shard, read everything back as a check, and give the shards the names that loaders expect.

        Raises RunError when what was written differs from what was given.
        """
        with disk_errors(self.out):
            self._flush()
            self._check_shards()
            self._name_shards()

    def commit(self) -> Path:
        """Flush everything to disk and give the finished folder its name."""
        with disk_errors(self.out):
            for file in (path for path in self.folder.rglob("*") if path.is_file()):
                file.chmod(usual_mode())  # safetensors lets nobody else read
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            self._take_place()
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
        path = self.folder / f"shard-{len(self._shards)}"
        with disk_errors(self.out):
            save_file(self._pending, path, metadata={"format": "pt"})
        self.weight_map.update(dict.fromkeys(self._pending, path.name))
        self._shards.append(path)
        self._pending, self._pending_bytes = {}, 0

    def _check_shards(self) -> None:
        for path in self._shards:
            with safe_open(path, "pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - no mapping
                    if _checksum(shard.get_tensor(name)) != self._checksums[name]:
                        raise RunError(
                            f"{self.out}: {name}: what was written is not what was given to be written. "
                            "Is the disk failing? Nothing is left behind."
                        )

    def _name_shards(self) -> None:
        """Give the shards the names that transformers looks for."""
        if len(self._shards) == 1:
            self._shards[0].rename(self.folder / SINGLE)
            return
        names = {}
        for number, path in enumerate(self._shards, start=1):
            names[path.name] = f"model-{number:05d}-of-{len(self._shards):05d}.safetensors"
            path.rename(self.folder / names[path.name])
        weight_map = {tensor: names[shard] for tensor, shard in self.weight_map.items()}
        index = {"metadata": {"total_size": sum(self.tensor_bytes.values())}, "weight_map": weight_map}
        write_json(self.folder / INDEX, index)


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)


@contextlib.contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn a full or failing disk into a RunError that says so."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if full:
            raise RunError(f"{out}: the disk is full. Nothing was written under that name.") from error
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise RunError(f"{out}: could not be written ({error}). Nothing is left behind.") from error
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
