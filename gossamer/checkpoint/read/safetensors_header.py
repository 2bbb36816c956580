"""The header of a safetensors file, read and checked before anything else touches the file.

Layout (github.com/huggingface/safetensors, "Format"): u64 little-endian N; N bytes of JSON {name: {dtype,
shape, data_offsets: [begin, end]}, "__metadata__": {...}}; then the data. The offsets are relative to the
data and must cover it exactly: no overlap, no hole.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.errors import CheckpointError, UnsupportedModelError

BITS_OF_DTYPE = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One entry of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of the file by name, in file order; CheckpointError if the file is not sound."""
    file_size = path.stat().st_size
    with path.open("rb") as file:
        length_bytes = file.read(8)
        if len(length_bytes) < 8:
            raise _broken(path, "at least 8 bytes", f"{file_size} bytes")
        header_size = int.from_bytes(length_bytes, "little")
        if header_size > min(MAX_HEADER_BYTES, file_size - 8):
            raise _broken(
                path,
                f"a header that fits in the file ({file_size} bytes)",
                f"a header of {header_size} bytes",
            )
        entries = _parse(path, file.read(header_size))
    tensors = {name: _entry(path, name, entry) for name, entry in entries.items()}
    _check_extent(path, tensors, file_size - 8 - header_size)
    return dict(sorted(tensors.items(), key=lambda item: item[1].begin))


def _parse(path: Path, header: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise _broken(path, "a header in JSON", f"{error}") from None
    if not isinstance(entries, dict):
        raise _broken(path, "a header that is a JSON object", type(entries).__name__)
    entries.pop("__metadata__", None)
    return entries


def _entry(path: Path, name: str, entry: object) -> StoredTensor:
    expected = 'an entry {"dtype", "shape", "data_offsets"} of one type, whole numbers and two offsets'
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, expected, f"{entry!r:.120}", name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise _broken(path, expected, f"{entry!r:.120}", name)
    if not isinstance(dtype, str) or dtype not in BITS_OF_DTYPE:
        raise UnsupportedModelError(
            f"{path}, tensor {name!r}: expected a dtype among {', '.join(BITS_OF_DTYPE)}, got {dtype!r:.40}. "
            "Save the model again as float32, float16 or bfloat16."
        )
    begin, end = offsets
    num_bytes = (math.prod(shape) * BITS_OF_DTYPE[dtype] + 7) // 8
    if end - begin != num_bytes:
        raise _broken(path, f"{num_bytes} bytes for {dtype} {shape}", f"{end - begin} bytes", name)
    return StoredTensor(dtype, tuple(shape), begin, end)


def _whole_numbers(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _check_extent(path: Path, tensors: dict[str, StoredTensor], data_size: int) -> None:
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            raise _broken(
                path, f"data at offset {position}, without overlap or hole", f"{tensor.begin}", name
            )
        position = tensor.end
    if position != data_size:
        raise _broken(path, f"{position} bytes of data, as the header says", f"{data_size} bytes in the file")


def _broken(path: Path, expected: str, got: str, name: str | None = None) -> CheckpointError:
    where = f"{path}" if name is None else f"{path}, tensor {name!r:.120}"
    return CheckpointError(
        f"{where}: expected {expected}, got {got}. The file is truncated or corrupted: copy or download it "
        "again."
    )
