"""The verb `merge`: add a LoRA adapter that PEFT trained elsewhere to a folder, whose zeros stay."""

import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from gossamer.checkpoint.read.lora import LoraAdapter, read_adapter
from gossamer.checkpoint.source import Source
from gossamer.checkpoint.write.writer import FolderWriter, check_target
from gossamer.errors import UsageError
from gossamer.progress import Progress, silent
from gossamer.rotation.rotate import RECORD as ROTATED
from gossamer.training.arrival import Arrival
from gossamer.training.enrol import enrol
from gossamer.training.folder import add_record, write_folder
from gossamer.training.grid import GridWeight
from gossamer.training.kept import KeptWeight
from gossamer.training.matrix import WHOLE, assembled
from gossamer.training.merging import merge_change, num_fallen
from gossamer.training.opening import open_parent, open_student
from gossamer.training.shown import kind_of
from gossamer.training.student import Student
from gossamer.version import __version__

LITTLE = 0.5
"""Of a change that has to arrive, or it is said loudly."""
TOKENS_OF_CHECK = 16


@dataclass(frozen=True)
class Merged:
    """What `merge` gives back: the folder it wrote, and the record that stands in its manifest under `merged`."""

    folder: Path
    record: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {"folder": str(self.folder), **self.record}


def merge(
    model: str | Path,
    adapter: str | Path,
    *,
    out: str | Path,
    parent: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Merged:
    """Add the adapter to the kept weights of `model`, and write the folder `out` in the same formats.

    Args:
        model: a folder that `compress` wrote; or a dense safetensors folder, whose zeros are kept if it was pruned.
        adapter: the folder of a LoRA adapter in PEFT's layout, with safetensors.
        out: the folder to write, with the formats, bytes and zeros of `model`; it appears complete or not at all.
        parent: the dense model that `model` was made of: codes then change as often as those of its own weights
            would, so that changes smaller than a step of the grid arrive on the average.
        overwrite: replace `out` if it is a model folder.
        progress: called as the work goes on.

    Raises:
        GossamerError: bad model, adapter, parent or target; nothing has been written then.
    """
    began, out = time.monotonic(), Path(out)
    check_target(out, overwrite)
    lora = read_adapter(adapter)
    source = open_student(model)
    if kind_of(source.reader.skeleton) != "causal":
        raise UsageError(f"{model}: adapters are merged into causal language models only.")
    dense = None if parent is None else open_parent(parent, source)
    files = (*source.reader.weight_files, *(() if dense is None else dense.reader.weight_files))
    check_target(out, overwrite, files)
    student = enrol(source, "all", embeddings=True, rank=1, seed=0)
    merging = _Merging(source, student, lora)
    merging.check()
    with FolderWriter(out, overwrite) as writer:
        if dense is not None:
            merging.dither(dense)
        arrivals = merging.add(progress)
        new = merging.tensors()
        notes = merging.notes_on(arrivals, parent is not None)
        for note in notes:
            progress(note, 0, 0)
        difference = write_folder(source, student, new, _ids(source), writer, progress)
        record = {
            **merging.record(arrivals),
            "parent": None if dense is None else {"name": dense.path.name, "sha256": dense.fingerprint()},
            "reload_max_difference": difference,
            "seconds": time.monotonic() - began,
            "notes": notes,
        }
        add_record(source, writer, "merged", record)
        writer.commit()
    return Merged(out, record)


class _Merging:
    """One adapter on its way into one student."""

    def __init__(self, source: Source, student: Student, lora: LoraAdapter) -> None:
        self.source, self.student, self.lora = source, student, lora
        self.notes = _notes(source, student)
        self.vectors = {name: each for name, each in lora.replaced.items() if name in student.plain}
        tables = {name: each for name, each in lora.replaced.items() if name not in self.vectors}
        self.tables = {name.removesuffix(".weight"): each for name, each in tables.items()}
        """What takes the place of whole matrices, by the matrix's name."""
        self.names = (*lora.pairs, *self.tables)

    def parts(self, name: str) -> Mapping[str, KeptWeight]:
        """Return what a matrix of the student is made of; empty if there is none of that name."""
        if name in self.student.packed:
            return self.student.packed[name].parts
        return {WHOLE: self.student.dense[name][1]} if name in self.student.dense else {}

    def check(self) -> None:
        """Raise UsageError for what does not fit, before anything is changed."""
        tied = {name for pair in self.source.architecture.tied for name in pair}
        shapes: dict[str, tuple[int, ...]] = {name: pair.shape for name, pair in self.lora.pairs.items()}
        shapes |= {name: self._turned(name, each) for name, each in self.tables.items()}
        for name, shape in shapes.items():
            if f"{name}.weight" in tied:
                raise self._refusal(name, "is tied to another one, which would change with it")
            if not (parts := self.parts(name)):
                raise self._refusal(name, "is no matrix of it that could be added to")
            own = tuple(assembled(parts).shape)
            if own != shape:
                raise self._refusal(name, f"is {list(own)} there and {list(shape)} in the adapter")
        for name, tensor in self.vectors.items():
            own = tuple(self.student.plain[name].parameter.shape)
            if own != tuple(tensor.shape):
                raise self._refusal(name, f"is {list(own)} there and {list(tensor.shape)} in the adapter")

    def dither(self, dense: Source) -> None:
        """Let the codes that will be added to begin in their cells where the dense weights lie in theirs."""
        if not self.has_codes():
            return
        model = dense.load_dense(torch.float32)
        for name, weight, wanted_OI in self.student.towards(model, self.source.architecture):
            if name in self.lora.pairs:
                weight.dither(wanted_OI)

    def add(self, progress: Progress) -> dict[str, Arrival]:
        """Make every change; return how much of each arrived."""
        arrivals = {}
        for number, name in enumerate(self.names):
            progress("merging, matrices", number, len(self.names))
            parts = self.parts(name)
            if name in self.lora.pairs:
                arrivals[name] = merge_change(name, parts, self.lora.pairs[name].product())
            else:
                wanted_OI = self._as_matrix(name, self.tables[name])
                arrivals[name] = merge_change(name, parts, wanted_OI - assembled(parts))
        progress("merging, matrices", len(self.names), len(self.names))
        for name, tensor in self.vectors.items():
            self.student.plain[name].restore(tensor)
        return arrivals

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored of all that was changed."""
        new: dict[str, Tensor] = {}
        for name in (*self.names, *self.vectors):
            new |= self.student.stored(name)
        for name, tensor in new.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise self._refusal(name, f"would hold values that {tensor.dtype} cannot")
        return new

    def notes_on(self, arrivals: Mapping[str, Arrival], has_parent: bool) -> list[str]:
        """Return all that has to be said."""
        notes = [*self.lora.notes, *self.notes, *_warnings(arrivals, self.has_codes(), has_parent)]
        if fallen := self._num_fallen():
            notes.append(f"{fallen} kept weights became 0, which in their form means removed from here on")
        return notes

    def has_codes(self) -> bool:
        """True if anything that is added to is stored as codes."""
        return any(isinstance(part, GridWeight) for name in self.names for part in self.parts(name).values())

    def record(self, arrivals: Mapping[str, Arrival]) -> dict[str, Any]:
        """Return what was done and what came of it, ready for JSON."""
        lora = self.lora
        scalings = {name: pair.scaling for name, pair in lora.pairs.items()}
        return {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "gossamer_version": __version__,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "adapter": {"name": lora.path.name, "sha256": lora.sha256, "base_model": lora.config.base_model},
            "total": Arrival.together(arrivals.values()).to_dict(),
            "matrices": {
                name: {"scaling": scalings.get(name), **each.to_dict()} for name, each in arrivals.items()
            },
            "replaced": sorted(lora.replaced),
            "removed_weights": self._num_removed(),
            "became_zero": self._num_fallen(),
        }

    def _num_removed(self) -> int:
        """How many zeros the changed matrices have, all of which stayed."""
        parts = (part for name in self.names for part in self.parts(name).values())
        return sum(part.working_OI.numel() - part.values_n.numel() for part in parts)

    def _num_fallen(self) -> int:
        """How many kept weights became 0 in forms where that means removed."""
        packed = sum(
            num_fallen(self.student.packed[name]) for name in self.names if name in self.student.packed
        )
        dense = (self.student.dense[name][1] for name in self.names if name in self.student.dense)
        return packed + sum(
            int((each.take(each.working_OI) == 0).sum()) for each in dense if each.index_n is not None
        )

    def _turned(self, name: str, stored: Tensor) -> tuple[int, ...]:
        if name not in self.source.architecture.matrices or stored.ndim != 2:
            return tuple(stored.shape)
        return tuple(self._as_matrix(name, stored).shape)

    def _as_matrix(self, name: str, stored: Tensor) -> Tensor:
        return self.source.architecture.matrix(name).from_stored(stored.float())

    def _refusal(self, name: str, reason: str) -> UsageError:
        return UsageError(
            f"{self.lora.path}: {name} does not fit {self.source.path}: it {reason}. Give an adapter of the model that "
            "the folder was made of."
        )


def _notes(source: Source, student: Student) -> list[str]:
    """What has to be known of a folder before something is added to it."""
    notes = []
    if (source.path / ROTATED).is_file():
        notes.append("the model was rotated: only an adapter that was trained on the rotated model fits it")
    if source.kind != "gossamer" and not any(w.index_n is not None for _m, w in student.dense.values()):
        notes.append(f"{source.path.name} is stored dense and has no zeros to keep")
    return notes


def _warnings(arrivals: Mapping[str, Arrival], has_codes: bool, has_parent: bool) -> list[str]:
    """Say where little or nothing arrives, and why."""
    if not arrivals:
        return []
    total = Arrival.together(arrivals.values())
    if total.arrived is None:
        return ["NOTHING ADDED: the adapter's products are zero at every kept weight"]
    notes = []
    poor = [name for name, each in arrivals.items() if each.arrived is not None and each.arrived < LITTLE]
    if poor:
        why = (
            "most of it is smaller than half a step of the folder's grid" if has_codes else "rounding took it"
        )
        advice = "; give --parent, and it arrives on the average" if has_codes and not has_parent else ""
        notes.append(
            f"LITTLE ARRIVED: {total.arrived:.0%} of the change in all, under {LITTLE:.0%} in {len(poor)} of "
            f"{len(arrivals)} matrices ({poor[0]}): {why}{advice}"
        )
    if total.dropped is not None and total.dropped > LITTLE:
        notes.append(f"MUCH DROPPED: {total.dropped:.0%} of the change falls on removed weights")
    return notes


def _ids(source: Source) -> Tensor:
    """Some tokens to check the written folder with."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = source.config.get_text_config().vocab_size
    return torch.randint(vocabulary, (1, TOKENS_OF_CHECK), generator=generator, device=generator.device)
