"""A student becomes a folder again: its weights in the forms that they had, all else as it was, its history behind."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from gossamer.calibration.observe import main_output
from gossamer.checkpoint.manifest import MANIFEST_NAME, read_manifest
from gossamer.checkpoint.read.folder import read_json
from gossamer.checkpoint.read.huggingface import FolderReader
from gossamer.checkpoint.source import Source
from gossamer.checkpoint.write.export import dense_config
from gossamer.checkpoint.write.side_files import copy_side_files
from gossamer.checkpoint.write.writer import FolderWriter, disk_errors
from gossamer.errors import RunError
from gossamer.evaluation.reload_check import reload_difference
from gossamer.progress import Progress
from gossamer.training.student import Student


def write_folder(
    source: Source,
    student: Student,
    new: Mapping[str, Tensor],
    ids_BL: Tensor,
    writer: FolderWriter,
    progress: Progress,
) -> float:
    """Write the folder with `new` tensors of the student in their places, and load it again as a check.

    Returns the largest difference of its outputs for `ids_BL` from the student's. RunError if it is more than rounding,
    or if a tensor is not of the form that `source` has for it.
    """
    progress("writing", 0, 1)
    with torch.inference_mode():
        outputs = main_output(student.model(ids_BL)).float()
    compressed = source.kind == "gossamer"
    for name, tensor in (_stored(source, new) if compressed else _dense(source, new)).items():
        writer.add({name: tensor})
    with disk_errors(writer.out):
        copy_side_files(source, writer.folder)
    writer.add_json("config.json", _config(source))
    writer.finish()
    blocks = source.architecture.blocks
    kind, dtype = type(student.model), None if compressed else torch.float32
    difference = reload_difference(writer.folder, kind, blocks, {"input_ids": ids_BL}, outputs, dtype)
    progress("writing", 1, 1)
    return difference


def add_record(source: Source, writer: FolderWriter, key: str, record: dict[str, Any]) -> None:
    """Write the manifest with `record` at the end of the list `key`; a folder that is stored dense gets KEY.json.

    What was measured of the folder holds no more, and is left out.
    """
    if source.kind != "gossamer":
        writer.add_json(f"{key}.json", record)
        return
    old = read_manifest(source.path)
    size = old.get("size")
    size_bytes = sum(file.stat().st_size for file in writer.folder.rglob("*") if file.is_file())
    manifest = {
        **old,
        "created": record["created"],
        "size": {**(size if isinstance(size, dict) else {}), "total_bytes": size_bytes},
        "reload_max_difference": record["reload_max_difference"],
        "measured": {},
        key: [*old.get(key, []), record],
    }
    writer.add_json(MANIFEST_NAME, manifest)


def _stored(source: Source, new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return every tensor of a compressed folder, some anew; RunError if their form is another."""
    tensors: dict[str, Tensor] = {}
    for file in source.reader.weight_files:
        with safe_open(file, "pt") as content:
            for name in content.keys():  # noqa: SIM118 - no mapping
                tensors[name] = content.get_tensor(name)
    for name, tensor in new.items():
        old = tensors.get(name)
        if old is None or old.shape != tensor.shape or old.dtype != tensor.dtype:
            raise RunError(
                f"{name}: was changed, but is not stored so in {source.path}. Nothing was written. This is a defect of "
                "Gossamer: please report it."
            )
    return {**tensors, **new}


def _dense(source: Source, new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return every tensor of a model that is stored dense, in the types that it is stored in."""
    copies = {copy for copy, _original in source.architecture.tied}
    tensors: dict[str, Tensor] = {}
    for name, tensor in source.model.state_dict().items():
        if name not in copies:
            tensors[name] = new.get(name, tensor)
    assert set(new) <= set(tensors), set(new) - set(tensors)
    return tensors


def _config(source: Source) -> dict[str, Any]:
    if source.kind == "gossamer":
        return read_json(source.path / "config.json", "")
    assert isinstance(source.reader, FolderReader)
    stored = str(next(source.model.parameters()).dtype).removeprefix("torch.")
    return dict(json.loads(json.dumps(dense_config(source, stored), default=str)))
