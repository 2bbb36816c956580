"""The files of a folder of lessons: a shard holds the token ids and the lessons of some windows.

ids [N, L], and the arrays of `Form.layout`, each [N, L, ...]. N windows, L tokens in a window.
"""

import hashlib
from pathlib import Path

import numpy as np
from safetensors import numpy as safetensors

from gossamer.checkpoint.read.safetensors_header import read_header
from gossamer.errors import CheckpointError, FormatError
from gossamer.files import written_whole
from gossamer.training.lessons.answers import Answers
from gossamer.training.lessons.manifest import Manifest, ShardRecord

SHARD_TOKENS = 1 << 13
"""About so many tokens are in a file: what is lost when a run is killed."""


def shard_name(number: int) -> str:
    """File name of a shard, counted from 1."""
    return f"lessons-{number:05d}.safetensors"


def write_shard(folder: Path, number: int, arrays: Answers) -> ShardRecord:
    """Write a shard whole or not at all; OSError if the disk does not take it."""
    content = safetensors.save(arrays)
    with written_whole(folder / shard_name(number)) as file:
        file.write(content)
    return ShardRecord(
        file=shard_name(number), windows=len(arrays["ids"]), sha256=hashlib.sha256(content).hexdigest()
    )


def read_shard(folder: Path, record: ShardRecord, manifest: Manifest) -> Answers:
    """Return the arrays of a shard; FormatError unless it is, to the bit, what was written."""
    path = folder / record.file
    if not path.is_file():
        raise FormatError(f"{path}: the file is missing. Copy the folder again, or teach again.")
    try:
        stored = read_header(path)
        content = path.read_bytes()
    except (OSError, CheckpointError) as error:
        raise FormatError(f"{error}") from error
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise FormatError(
            f"{path}: its SHA-256 is not what lessons.json says: it was damaged or changed. Copy the folder again, "
            "or teach again."
        )
    shape = (record.windows, manifest.length)
    layout = {name: (dtype, shape + rest) for name, (dtype, rest) in manifest.form.layout().items()}
    got = {name: (tensor.dtype, tensor.shape) for name, tensor in stored.items()}
    if got != layout:
        raise FormatError(f"{path}: expected the tensors {layout}, got {got!s:.300}. Teach again.")
    arrays: Answers = safetensors.load(content)
    if int(np.max(arrays["ids"])) >= manifest.vocabulary:
        raise FormatError(
            f"{path}: expected token ids below {manifest.vocabulary:,}, got others. Teach again."
        )
    return arrays
