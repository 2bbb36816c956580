"""The work folder of a run, `.NAME.run` beside its target: all that is needed to go on after it was stopped.

    lock                 held by the run that is alive
    parts/               what of the result has been written so far (checkpoint/write/writer.py)
    state-N.safetensors  tensors after N finished units (blocks, steps of training): all that the next one needs
    progress.json        N, what is being run, and everything else; replaced atomically with each state

A kill or a power cut at any moment leaves the last complete state: what a state needs is on disk before
`progress.json` names it, and what it replaces is deleted after. Disk: the result so far, and twice the state.
"""

import fcntl
import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils import _pytree as tree

from gossamer.checkpoint.write.writer import disk_errors, resolved
from gossamer.errors import DiskError, GossamerError, ProcessError, UsageError
from gossamer.files import sync, sync_folder, write_json

PROGRESS = "progress.json"


class WorkFolder:
    """Use as a context manager: leaving it removes the folder, unless a stopped run can go on from it.

    An error of the run itself (a GossamerError; but no full disk, nor the end of another process) would come again, so
    that nothing is kept then.
    """

    def __init__(self, out: Path, resume: bool = False, unit: str = "blocks", kind: str = "run") -> None:
        self.out, self.unit = resolved(out), unit
        self.path = self.out.parent / f".{self.out.name}.{kind}"
        self.progress: dict[str, Any] | None = None
        self.resumes = resume
        self._identity: dict[str, Any] = {}
        self._going = False

    def __enter__(self) -> Self:
        with disk_errors(self.out):
            self.path.mkdir(exist_ok=True)
            self._lock = (self.path / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.progress = self._read_progress()
            if self.progress is not None and not self.resumes:
                raise UsageError(f"{self.out} is not finished: {self.how_to_go_on()}")
            if self.progress is None:
                self._clear()
        except BlockingIOError as error:
            self._lock.close()
            raise UsageError(f"{self.out}: another run is writing it just now.") from error
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        again = isinstance(error, GossamerError) and not isinstance(error, DiskError | ProcessError)
        hopeless = self._going and again
        if error is None or self.progress is None or hopeless:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            error.add_note(self.how_to_go_on())
        self._lock.close()

    def begin(self, identity: dict[str, Any]) -> None:
        """Say what is being run; UsageError, which names the differences, if the stopped run was another one."""
        self._identity = json.loads(json.dumps(identity, default=str))
        self.compare("run", {} if self.progress is None else self.progress["identity"], self._identity)

    def compare(self, what: str, then: dict[str, Any], now: dict[str, Any]) -> None:
        """Raise UsageError unless this is what the stopped run had; nothing is compared when nothing was stopped."""
        if self.progress is None:
            return
        keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        if keys:
            told = "; ".join(
                f"{key} was {then.get(key)!s:.160} and is now {now.get(key)!s:.160}" for key in keys
            )
            raise UsageError(
                f"--resume: the {what} that was stopped was another one: {told}. Give what was given then, or "
                f"delete {self.path} to start anew."
            )

    def go(self) -> None:
        """From now on the folder is this run's own."""
        self._going = True

    def save(self, state: dict[str, Any], values: Any) -> None:
        """Keep a state: `state` is ready for JSON, `values` any nesting of tensors and plain values.

        `state` has under `done` and `total` how far the run has come; a total of None is not known.
        """
        leaves, structure = tree.tree_flatten(values)
        tensors, rest = _apart(leaves)
        with disk_errors(self.out):
            file = self.path / f"state-{state['done']}.safetensors"
            while file.exists():  # never over one that may be gone on from
                file = file.with_name(f"{file.stem}-again.safetensors")
            save_file(tensors, file)
            sync(file)
            sync_folder(self.path)
            self.progress = {
                **state,
                "identity": self._identity,
                "tensors": file.name,
                "values": rest,
                "structure": tree.treespec_dumps(structure),
            }
            write_json(self.path / PROGRESS, self.progress)
            sync_folder(self.path)
            for older in self.path.glob("state-*.safetensors"):
                if older != file:
                    older.unlink()

    def values(self) -> Any:
        """The values that were saved, in memory."""
        assert self.progress is not None
        with safe_open(self.path / self.progress["tensors"], "pt") as content:
            leaves = [
                content.get_tensor(leaf["tensor"]).clone() if isinstance(leaf, dict) else leaf
                for leaf in self.progress["values"]
            ]
        return tree.tree_unflatten(leaves, tree.treespec_loads(self.progress["structure"]))

    def how_to_go_on(self) -> str:
        assert self.progress is not None
        total = self.progress["total"]
        done = f"{self.progress['done']} {'' if total is None else f'of {total} '}{self.unit}"
        return (
            f"{done} of a stopped run are kept in {self.path}. "
            "Give the same command with --resume to go on from there, or delete that folder to start anew."
        )

    def _clear(self) -> None:
        """Remove what a run left that was stopped before its first block was finished."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()

    def _read_progress(self) -> dict[str, Any] | None:
        try:
            progress = json.loads((self.path / PROGRESS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.path / PROGRESS}: cannot be read ({error}). Delete {self.path}."
            ) from error
        return dict(progress)


def _apart(leaves: list[Any]) -> tuple[dict[str, Tensor], list[Any]]:
    """Tensors under names, each once and in memory of its own; in the list a reference stands in the place of each."""
    tensors: dict[str, Tensor] = {}
    names: dict[int, str] = {}
    used: set[int] = set()
    rest: list[Any] = []
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            rest.append(leaf)
            continue
        if id(leaf) not in names:
            names[id(leaf)] = str(len(names))
            storage = leaf.untyped_storage()
            alone = leaf.is_contiguous() and storage.nbytes() == leaf.nbytes
            own = (
                leaf
                if alone and storage.data_ptr() not in used
                else leaf.clone(memory_format=torch.contiguous_format)
            )
            used.add(own.untyped_storage().data_ptr())
            tensors[names[id(leaf)]] = own
        rest.append({"tensor": names[id(leaf)]})
    return tensors, rest
