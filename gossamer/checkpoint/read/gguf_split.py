"""Models in several GGUF files, as llama.cpp's gguf-split writes them: `NAME-00001-of-00003.gguf` and so on.

The first part has the metadata of the model; each has `split.no` (from 0), `split.count`, and `split.tensors.count`,
the number of tensors in all parts together. Source: llama.cpp, src/llama-model-loader.cpp.
"""

import re
from dataclasses import replace
from pathlib import Path

from gossamer.checkpoint.read.gguf_header import GGUFFile, GGUFTensor, read_gguf
from gossamer.errors import CheckpointError

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
MOST_PARTS = 10_000


def gguf_in_folder(folder: Path) -> Path | None:
    """Return the GGUF file of a folder that has one model in GGUF, or a part of it if it is split; else None."""
    models: dict[Path, Path] = {}
    for path in sorted(folder.glob("*.gguf")):
        models.setdefault(_first_part(path), path)
    return next(iter(models.values())) if len(models) == 1 else None


def read_gguf_model(path: Path) -> GGUFFile:
    """Return the checked file, or all parts together if `path` is one part of a split model.

    Raises CheckpointError for a part that is missing or belongs to another model, and what `read_gguf` raises.
    """
    file = read_gguf(path)
    count = file.metadata.get("split.count", 1)
    if count == 1:
        return file
    match = _PART.fullmatch(path.name)
    if (
        type(count) is not int
        or not 1 <= count <= MOST_PARTS
        or match is None
        or int(match["count"]) != count
    ):
        raise CheckpointError(
            f"{path}, key 'split.count': expected a name that ends in -00001-of-{count!s:.8}.gguf for one of "
            f"{count!s:.8} parts, got {path.name!r:.120}. Give the parts back their names, or merge them with "
            "llama-gguf-split --merge."
        )
    paths = [path.with_name(f"{match['stem']}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    missing = [each for each in paths if not each.is_file()]
    if missing:
        raise CheckpointError(
            f"{missing[0]}: expected part {paths.index(missing[0]) + 1} of {count} of the model here, there is no "
            f"such file ({len(missing)} of {count} parts are missing). Download it into the folder of the others."
        )
    parts = [file if each == path else read_gguf(each) for each in paths]
    return _join(parts)


def _join(parts: list[GGUFFile]) -> GGUFFile:
    first = parts[0]
    tensors: dict[str, GGUFTensor] = {}
    for number, part in enumerate(parts):
        found = part.metadata.get("split.no"), part.metadata.get("split.count")
        if found != (number, len(parts)):
            raise CheckpointError(
                f"{part.path}, keys 'split.no' and 'split.count': expected {number} of {len(parts)}, got "
                f"{found[0]!r:.20} of {found[1]!r:.20}. The part belongs to another model, or was renamed."
            )
        if twice := tensors.keys() & part.tensors.keys():
            raise CheckpointError(
                f"{part.path}: expected tensors that no other part has, got {min(twice)!r:.80} again. "
                "The parts are of different models: download them together."
            )
        tensors |= part.tensors
    promised = first.metadata.get("split.tensors.count", len(tensors))
    if promised != len(tensors):
        raise CheckpointError(
            f"{first.path}, key 'split.tensors.count': expected {promised!r:.20} tensors in all parts, got "
            f"{len(tensors)}. The parts are of different models: download them together."
        )
    return replace(first, tensors=tensors, parts=tuple(part.path for part in parts))


def _first_part(path: Path) -> Path:
    match = _PART.fullmatch(path.name)
    return path if match is None else path.with_name(f"{match['stem']}-00001-of-{match['count']}.gguf")
