import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gossamer.checkpoint.read.safetensors_header import read_header
from gossamer.errors import CheckpointError, UnsupportedModelError


def write(path: Path, header: Any, data: bytes, size: int | None = None) -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(encoded) if size is None else size).to_bytes(8, "little") + encoded + data)
    return path


def entry(begin: int, end: int, shape: Any = (1,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_a_file_of_the_library_is_read(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(5, dtype=torch.bfloat16), "c": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "m.safetensors")
    assert {name: (t.dtype, t.shape, t.num_bytes) for name, t in found.items()} == {
        "a": ("F32", (2, 3), 24),
        "b": ("BF16", (5,), 10),
        "c": ("F32", (0, 4), 0),
    }


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"", b"", "JSON"),
        (b"{nonsense", b"", "JSON"),
        (b"[" * 100_000, b"", "JSON"),
        (b"\xff\xfe", b"", "JSON"),
        ([], b"", "JSON object"),
        ({"a": []}, b"", "an entry"),
        ({"a": {"dtype": "F32"}}, b"", "an entry"),
        ({"a": entry(0, 4, [-1])}, bytes(4), "an entry"),
        ({"a": entry(0, 4, [1.0])}, bytes(4), "an entry"),
        ({"a": entry(0, 4, [True])}, bytes(4), "an entry"),
        ({"a": entry(0, 8)}, bytes(8), "4 bytes for F32"),
        ({"a": entry(0, 4, [2**40, 2**40])}, bytes(4), "bytes for F32"),
        ({"a": entry(4, 0, [1])}, bytes(4), "4 bytes for F32"),
        ({"a": entry(0, 4)}, bytes(3), "3 bytes in the file"),
        ({"a": entry(0, 4)}, bytes(9), "9 bytes in the file"),
        ({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4), "without overlap"),
        ({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6), "without overlap"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12), "without overlap or hole"),
    ],
)
def test_a_header_that_lies_is_refused(header: Any, data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_header(write(tmp_path / "m.safetensors", header, data))


@pytest.mark.parametrize("size", [3, 2**31, 2**63])
def test_a_header_length_beyond_the_file_is_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a header that fits"):
        read_header(write(tmp_path / "m.safetensors", b"{}", b"", size))


def test_a_file_shorter_than_the_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\1\2")
    with pytest.raises(CheckpointError, match="at least 8 bytes"):
        read_header(tmp_path / "m.safetensors")


def test_an_unknown_dtype_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="F99"):
        read_header(write(tmp_path / "m.safetensors", {"a": entry(0, 4, dtype="F99")}, bytes(4)))


@settings(max_examples=100, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5),
    cut=st.integers(0, 10**6),
)
def test_random_damage_raises_nothing_but_checkpoint_errors(
    changes: list[tuple[int, int]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "m.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(5)}, path)
    damaged = bytearray(path.read_bytes())
    for place, value in changes:
        damaged[place % len(damaged)] = value
    path.write_bytes(damaged[: cut % (2 * len(damaged))])
    with contextlib.suppress(CheckpointError):
        read_header(path)
