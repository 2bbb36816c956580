"""The header of a GGUF file: metadata and tensor table, every field checked before it is believed.

Source: github.com/ggml-org/ggml/blob/master/docs/gguf.md. Layout, little-endian:
    "GGUF", u32 version, u64 tensors, u64 pairs;
    pairs:   string key, u32 type, value     (string = u64 length, bytes; array = u32 type, u64 n, items)
    tensors: string name, u32 dims, u64[dims] shape (fastest first), u32 ggml type, u64 offset
    padding to `general.alignment` (32 if absent), then the data that the offsets point into.

A count or length is compared with the bytes that are left before anything is allocated or looped over, so
hostile files fail in time proportional to the bytes they really have. Only numpy reads the data afterwards,
through `mmap`.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from gossamer.errors import CheckpointError, UnsupportedModelError

VERSIONS = (2, 3)
SUPPORTED_TYPES = (
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
)
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 65535
"""Limit of the specification for keys (names of tensors: 64; some writers exceed that)."""

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One row of the tensor table."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    """In torch order: the fastest-moving dimension last."""
    begin: int
    """Offset in the file."""
    num_bytes: int
    mapping: mmap.mmap
    """The file that it lies in."""


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A checked GGUF file, its data mapped but not read."""

    path: Path
    metadata: dict[str, Any]
    """Key -> int, float, bool, str, list of str, or numpy array for arrays of numbers."""
    tensors: dict[str, GGUFTensor]
    parts: tuple[Path, ...]
    """The files that the model lies in, in their order: one, but for a split model."""

    def raw(self, name: str) -> np.ndarray:
        """Return the bytes of a tensor, uint8 [..., bytes of a row], a view of the mapped file."""
        tensor = self.tensors[name]
        flat = np.frombuffer(tensor.mapping, dtype=np.uint8, count=tensor.num_bytes, offset=tensor.begin)
        rows = tensor.shape[:-1]
        return flat.reshape(*rows, tensor.num_bytes // max(math.prod(rows), 1))


def read_gguf(path: Path) -> GGUFFile:
    """Check the file's header and return it; CheckpointError if anything in it is not sound."""
    if path.stat().st_size < 24:
        raise _broken(path, "a header of at least 24 bytes", f"{path.stat().st_size} bytes")
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(path, mapping)
    num_tensors, num_pairs = _read_counts(cursor)
    metadata = _read_metadata(cursor, num_pairs)
    table = [_read_row(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
        raise _broken(path, "an alignment that is a power of two, at most 2^20", f"{alignment!r:.40}")
    data_begin = math.ceil(cursor.position / alignment) * alignment
    tensors = _place(path, table, data_begin, alignment, mapping)
    return GGUFFile(path, metadata, tensors, (path,))


class _Cursor:
    """A position in the header that cannot leave the file."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.position = path, data, 0

    def take(self, size: int, what: str) -> bytes:
        """Return the next `size` bytes; CheckpointError if the file ends before them."""
        if size > len(self.data) - self.position:
            left = len(self.data) - self.position
            raise _broken(
                self.path, f"{size} bytes of {what} at offset {self.position}", f"{left} bytes left"
            )
        self.position += size
        return self.data[self.position - size : self.position]

    def number(self, layout: str, what: str) -> Any:
        """Return one number of struct layout `layout`."""
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))[0]

    def text(self, what: str, max_bytes: int | None = None) -> str:
        """Return a length-prefixed string in UTF-8."""
        size = self.number("<Q", f"the length of {what}")
        if max_bytes is not None and size > max_bytes:
            raise _broken(self.path, f"at most {max_bytes} bytes in {what}", f"{size}")
        try:
            return self.take(size, what).decode("utf-8")
        except UnicodeDecodeError:
            raise _broken(
                self.path, f"UTF-8 in {what} before offset {self.position}", "other bytes"
            ) from None


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    path, magic = cursor.path, cursor.take(4, "magic")
    if magic != b"GGUF":
        raise CheckpointError(
            f"{path}: expected a GGUF file (first bytes 'GGUF'), got {magic!r}. Is it another format?"
        )
    version = cursor.number("<I", "version")
    if version not in VERSIONS:
        if version & 0xFFFF == 0 and int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise UnsupportedModelError(
                f"{path}: expected a little-endian GGUF, got a big-endian one. Convert it with "
                "gguf-convert-endian."
            )
        raise UnsupportedModelError(
            f"{path}: expected GGUF version 2 or 3, got {version}. Convert the model again with a current "
            "llama.cpp."
        )
    num_tensors, num_pairs = cursor.number("<Q", "tensor count"), cursor.number("<Q", "pair count")
    left = len(cursor.data) - cursor.position
    # the smallest pair: empty key, type, one byte; the smallest row: empty name, one dimension, type, offset
    if num_pairs * 13 + num_tensors * 32 > left:
        raise _broken(
            path,
            f"counts that fit in the {left} bytes after the counts",
            f"{num_pairs} metadata pairs and {num_tensors} tensors",
        )
    return num_tensors, num_pairs


def _read_metadata(cursor: _Cursor, num_pairs: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = cursor.text("a metadata key", MAX_NAME_BYTES)
        if key in metadata:
            raise _broken(cursor.path, "every metadata key once", f"{key!r:.80} twice")
        metadata[key] = _read_value(cursor, cursor.number("<I", f"the type of {key!r:.80}"), key)
    return metadata


def _read_value(cursor: _Cursor, type_id: int, key: str) -> Any:
    if type_id in _SCALARS:
        return cursor.number(_SCALARS[type_id], f"{key!r:.80}")
    if type_id == _STRING:
        return cursor.text(f"{key!r:.80}")
    if type_id != _ARRAY:
        raise _broken(cursor.path, f"a value type from 0 to 12 for {key!r:.80}", f"{type_id}")
    item_type, count = cursor.number("<I", f"{key!r:.80}"), cursor.number("<Q", f"{key!r:.80}")
    if item_type == _STRING:
        if count * 8 > len(cursor.data) - cursor.position:
            raise _broken(cursor.path, f"as many strings in {key!r:.80} as the file can hold", f"{count}")
        return _read_texts(cursor, count, f"{key!r:.80}")
    if item_type not in _SCALARS:
        raise _broken(
            cursor.path, f"an array of numbers or strings for {key!r:.80}", f"one of type {item_type}"
        )
    layout = np.dtype(_SCALARS[item_type])
    return np.frombuffer(cursor.take(count * layout.itemsize, f"{key!r:.80}"), dtype=layout)


def _read_texts(cursor: _Cursor, count: int, what: str) -> list[str]:
    """Return `count` strings. A vocabulary has 10^5 of them, so that nothing is called for each but what must be."""
    data, position, last = cursor.data, cursor.position, len(cursor.data) - 8
    texts = []
    for _ in range(count):
        end = position + 8 + _LENGTH.unpack_from(data, position)[0] if position <= last else position
        if end > last + 8 or position > last:
            break
        try:
            texts.append(data[position + 8 : end].decode())
        except UnicodeDecodeError:
            break
        position = end
    cursor.position = position
    # the string that stopped the loop is read once more, for its error
    return texts if len(texts) == count else [*texts, cursor.text(what)]


def _read_row(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.text("a tensor name", MAX_NAME_BYTES)
    num_dimensions = cursor.number("<I", f"the dimensions of {name!r:.80}")
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise _broken(cursor.path, f"1 to {MAX_DIMENSIONS} dimensions for {name!r:.80}", f"{num_dimensions}")
    shape = struct.unpack(
        f"<{num_dimensions}Q", cursor.take(8 * num_dimensions, f"the shape of {name!r:.80}")
    )
    type_id, offset = cursor.number("<I", f"the type of {name!r:.80}"), cursor.number("<Q", "an offset")
    return name, tuple(reversed(shape)), type_id, offset


def _place(
    path: Path,
    table: list[tuple[str, tuple[int, ...], int, int]],
    data_begin: int,
    alignment: int,
    mapping: mmap.mmap,
) -> dict[str, GGUFTensor]:
    tensors: dict[str, GGUFTensor] = {}
    for name, shape, type_id, offset in table:
        if name in tensors:
            raise _broken(path, "every tensor once", f"{name!r:.80} twice")
        type_name, num_bytes = _extent(path, name, shape, type_id)
        if offset % alignment:
            raise _broken(path, f"a multiple of {alignment} as offset of {name!r:.80}", f"{offset}")
        if data_begin + offset + num_bytes > len(mapping):
            raise _broken(
                path,
                f"{num_bytes} bytes for {name!r:.80} at offset {data_begin + offset}",
                f"a file of {len(mapping)} bytes",
            )
        tensors[name] = GGUFTensor(name, type_name, shape, data_begin + offset, num_bytes, mapping)
    ordered = sorted(tensors.values(), key=lambda tensor: tensor.begin)
    for before, after in pairwise(ordered):
        if before.begin + before.num_bytes > after.begin:
            raise _broken(path, "tensors that do not overlap", f"{before.name!r:.80} over {after.name!r:.80}")
    return tensors


def _extent(path: Path, name: str, shape: tuple[int, ...], type_id: int) -> tuple[str, int]:
    """Return (type name, number of bytes) of a tensor; refuse types that are not handled."""
    try:
        kind = GGMLQuantizationType(type_id)
    except ValueError:
        raise _broken(path, f"a known ggml type for {name!r:.80}", f"{type_id}") from None
    if kind.name not in SUPPORTED_TYPES:
        raise UnsupportedModelError(
            f"{path}, tensor {name!r:.80}: expected a type among {', '.join(SUPPORTED_TYPES)}, got "
            f"{kind.name}. "
            "Get the model in one of these types."
        )
    if any(size == 0 for size in shape):
        raise _broken(path, f"no empty dimension in {name!r:.80}", f"shape {shape}")
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % block_size:
        raise _broken(path, f"rows of {name!r:.80} in whole blocks of {block_size}", f"{shape[-1]} columns")
    return kind.name, math.prod(shape) // block_size * block_bytes


def _broken(path: Path, expected: str, got: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: expected {expected}, got {got}. The GGUF file is truncated or corrupted: copy or download "
        "it again."
    )
