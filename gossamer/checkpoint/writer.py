"""Write a model folder so that it exists whole or not at all.

Everything goes into a hidden folder beside the target, which is renamed into place at the very end. Whatever
stops the run (error, interrupt, kill -9, full disk), nothing appears under the target's name and nothing that was
there is touched.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gossamer.checkpoint.manifest import write_json
from gossamer.errors import RunError, UsageError

SHARD_BYTES = 2_000_000_000


def check_target(out: Path, overwrite: bool) -> None:
    """Raise UsageError unless `out` may be written."""
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already. Choose another --out, or pass --overwrite to replace it.")
    if out.exists() and (not out.is_dir() or not _ours_to_replace(out)):
        raise UsageError(f"{out} exists and is not a model folder: --overwrite will not delete it.")
    parent = out.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{out}: the folder {parent} does not exist. Create it first.")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{out}: the folder {parent} is not writable.")


def _ours_to_replace(folder: Path) -> bool:
    return (folder / "config.json").is_file() or not any(folder.iterdir())


class FolderWriter:
    """Collects tensors and files of a model; `commit` makes them appear as the folder `out`.

    Use as a context manager: leaving it without `commit` removes everything that was written.
    """

    def __init__(self, out: Path, overwrite: bool = False) -> None:
        check_target(out, overwrite)
        self.out = out.absolute()
        self.overwrite = overwrite
        self.weight_map: dict[str, str] = {}
        self.tensor_bytes: dict[str, int] = {}
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[Path] = []
        _remove_abandoned(self.out)
        self.folder = self.out.parent / f".{self.out.name}.partial-{os.getpid()}"
        shutil.rmtree(self.folder, ignore_errors=True)
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
        if self._pending_bytes >= SHARD_BYTES:
            self._flush()

    def add_json(self, name: str, value: Any) -> None:
        with disk_errors(self.out):
            write_json(self.folder / name, value)

    def finish(self) -> None:
        """Write the last shard and name them all, so that the folder can be loaded where it is."""
        with disk_errors(self.out):
            self._flush()
            self._name_shards()

    def commit(self) -> Path:
        """Flush everything to disk and give the finished folder its name."""
        with disk_errors(self.out):
            for file in (path for path in self.folder.rglob("*") if path.is_file()):
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

    def _name_shards(self) -> None:
        """Give the shards the names that transformers looks for."""
        if len(self._shards) == 1:
            self._shards[0].rename(self.folder / "model.safetensors")
            return
        names = {}
        for number, path in enumerate(self._shards, start=1):
            names[path.name] = f"model-{number:05d}-of-{len(self._shards):05d}.safetensors"
            path.rename(self.folder / names[path.name])
        weight_map = {tensor: names[shard] for tensor, shard in self.weight_map.items()}
        index = {"metadata": {"total_size": sum(self.tensor_bytes.values())}, "weight_map": weight_map}
        write_json(self.folder / "model.safetensors.index.json", index)


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
    """Delete partial folders of runs that were killed."""
    for folder in out.parent.glob(f".{out.name}.partial-*"):
        process = folder.name.rpartition("-")[2]
        if process.isdigit() and not Path(f"/proc/{process}").exists() and Path("/proc").exists():
            shutil.rmtree(folder, ignore_errors=True)
