"""Safetensors files handled as bytes: joined, and read back as a check, without holding or mapping them."""

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from gossamer.checkpoint.read.safetensors_header import BITS_OF_DTYPE, read_header
from gossamer.files import sync

CHUNK_BYTES = 1 << 22


def join(files: Sequence[Path], target: Path) -> None:
    """Write the tensors of `files` into the one file `target`, flushed to disk.

    They are ordered as safetensors itself does, the widest types first and then by name, so that all are aligned.
    """
    found = [(name, tensor, file) for file in files for name, tensor in read_header(file).items()]
    found.sort(key=lambda each: (-BITS_OF_DTYPE[each[1].dtype], each[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor, _file in found:
        end = position + tensor.num_bytes
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as output:
        output.write(len(text).to_bytes(8, "little") + text)
        for _name, tensor, file in found:
            with file.open("rb") as content:
                for chunk in _chunks(content, _data_start(content) + tensor.begin, tensor.num_bytes):
                    output.write(chunk)
    sync(target)


def checksums(file: Path) -> dict[str, int]:
    """Return the CRC-32 of the bytes of every tensor in a file."""
    with file.open("rb") as content:
        start = _data_start(content)
        return {
            name: checksum(_chunks(content, start + tensor.begin, tensor.num_bytes))
            for name, tensor in read_header(file).items()
        }


def checksum(chunks: Iterable[bytes | memoryview]) -> int:
    """CRC-32 of bytes that come in pieces."""
    value = 0
    for chunk in chunks:
        value = zlib.crc32(chunk, value)
    return value


def _data_start(content: BinaryIO) -> int:
    content.seek(0)
    return 8 + int.from_bytes(content.read(8), "little")


def _chunks(content: BinaryIO, start: int, num_bytes: int) -> Iterator[bytes]:
    content.seek(start)
    while num_bytes and (chunk := content.read(min(CHUNK_BYTES, num_bytes))):
        num_bytes -= len(chunk)
        yield chunk
