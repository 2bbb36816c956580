import contextlib
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossamer.checkpoint.read.gguf_header import read_gguf
from gossamer.checkpoint.source import open_model
from gossamer.errors import CheckpointError, UnsupportedModelError
from tests.checkpoint.gguf_files import write_gguf
from tests.models import tiny_model


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, type_id: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", type_id) + value


def row(name: bytes = b"w", shape: tuple[int, ...] = (32, 2), type_id: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", type_id, offset)


def write(
    path: Path,
    pairs: tuple[bytes, ...] = (),
    rows: tuple[bytes, ...] = (),
    data: bytes = bytes(512),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_tensors: int | None = None,
    num_pairs: int | None = None,
) -> Path:
    num_tensors = len(rows) if num_tensors is None else num_tensors
    num_pairs = len(pairs) if num_pairs is None else num_pairs
    header = magic + struct.pack("<IQQ", version, num_tensors, num_pairs) + b"".join(pairs) + b"".join(rows)
    path.write_bytes(header + bytes(-len(header) % 32) + data)
    return path


def refuse(path: Path, match: str, error: type[Exception] = CheckpointError) -> None:
    """Expect an error that says `match`, at once."""
    begin = time.perf_counter()
    with pytest.raises(error, match=match):
        read_gguf(path)
    assert time.perf_counter() - begin < 1.0


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    data = np.arange(64, dtype=np.float32).tobytes()
    pairs = (
        pair(b"name", 8, text("é".encode())),
        pair(b"n", 4, struct.pack("<I", 7)),
        pair(b"list", 9, struct.pack("<IQ", 8, 2) + text(b"a") + text(b"b")),
        pair(b"numbers", 9, struct.pack("<IQ3i", 5, 3, -1, 0, 1)),
    )
    file = read_gguf(write(tmp_path / "m.gguf", pairs, (row(),), data))
    assert (file.metadata["name"], file.metadata["n"], file.metadata["list"]) == ("é", 7, ["a", "b"])
    assert file.metadata["numbers"].tolist() == [-1, 0, 1]
    assert file.tensors["w"].shape == (2, 32)
    np.testing.assert_array_equal(file.raw("w").view(np.float32), np.arange(64).reshape(2, 32))


def test_the_table_equals_the_one_that_the_gguf_library_reads(tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"), "llama", tmp_path / "m.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert set(ours.tensors) == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.begin == tensor.data_offset and mine.num_bytes == tensor.n_bytes
        assert mine.shape == tuple(reversed(tensor.shape.tolist()))
        assert mine.type_name == tensor.tensor_type.name
        np.testing.assert_array_equal(
            ours.raw(tensor.name).reshape(-1), tensor.data.view(np.uint8).reshape(-1)
        )


def test_files_that_are_no_gguf_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"")
    refuse(path, "24 bytes")
    path.write_bytes(b"GGUF\3\0\0\0")
    refuse(path, "24 bytes")
    refuse(write(path, magic=b"GGML"), "first bytes 'GGUF'")


@pytest.mark.parametrize("version", [0, 1, 4, 2**32 - 1])
def test_other_versions_are_refused(version: int, tmp_path: Path) -> None:
    refuse(write(tmp_path / "m.gguf", version=version), "version 2 or 3", UnsupportedModelError)


def test_a_big_endian_file_is_refused_as_such(tmp_path: Path) -> None:
    refuse(write(tmp_path / "m.gguf", version=3 << 24), "big-endian", UnsupportedModelError)


@pytest.mark.parametrize("count", [10**6, 2**32, 2**63, 2**64 - 1])
def test_absurd_counts_are_refused_before_they_are_believed(count: int, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    refuse(write(path, num_tensors=count), "counts that fit")
    refuse(write(path, num_pairs=count), "counts that fit")
    refuse(write(path, (pair(b"k", 9, struct.pack("<IQ", 8, count)),)), "as many strings")
    refuse(write(path, (pair(b"k", 9, struct.pack("<IQ", 10, count)),)), "bytes left")
    refuse(write(path, (struct.pack("<Q", count) + b"key",)), "65535 bytes|bytes left")
    refuse(write(path, (pair(b"k", 8, struct.pack("<Q", count)),)), "bytes left")
    refuse(write(path, rows=(row(shape=(32, count)),)), "a file of")
    refuse(write(path, rows=(row(offset=count // 32 * 32),)), "a file of")


def test_other_faults_of_the_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    nested = struct.pack("<IQIQ", 9, 1, 9, 1)
    refuse(write(path, (pair(b"k", 9, nested + bytes(64)),)), "array of numbers or strings")
    refuse(write(path, (pair(b"k", 13, bytes(8)),)), "value type")
    refuse(write(path, (pair(b"k", 4, bytes(4)), pair(b"k", 4, bytes(4)))), "twice")
    refuse(write(path, (pair(b"\xff\xfe", 4, bytes(4)),)), "UTF-8")
    refuse(write(path, rows=(row(), row())), "twice")
    refuse(write(path, rows=(row(b"a"), row(b"b", offset=32))), "overlap")
    refuse(write(path, rows=(row(offset=8),)), "multiple of 32")
    refuse(write(path, rows=(row(shape=()),)), "dimensions")
    refuse(write(path, rows=(row(shape=(1,) * 5),)), "dimensions")
    refuse(write(path, rows=(row(shape=(0, 4)),)), "empty dimension")
    refuse(write(path, rows=(row(type_id=4),)), "ggml type")
    refuse(write(path, rows=(row(shape=(33,), type_id=2),)), "whole blocks of 32")
    refuse(write(path, rows=(row(type_id=20),)), "IQ4_NL", UnsupportedModelError)
    for alignment in (0, 3, 2**31):
        refuse(write(path, (pair(b"general.alignment", 4, struct.pack("<I", alignment)),)), "power of two")
    refuse(write(path, (pair(b"general.alignment", 8, text(b"32")),)), "power of two")


def test_truncation_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.gguf", (pair(b"k", 8, text(b"v")),), (row(),), bytes(256)).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_gguf(tmp_path / "cut.gguf")


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, int]:
    """(path to write to, contents of a sound model file, size of its header)."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = write_gguf(tiny_model("llama"), "llama", folder / "sound.gguf")
    data_begin = min(tensor.begin for tensor in read_gguf(path).tensors.values())
    return folder / "fuzzed.gguf", path.read_bytes(), data_begin


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_to_the_header_raises_nothing_but_checkpoint_errors(
    data: st.DataObject, sound_file: tuple[Path, bytes, int]
) -> None:
    path, sound, header_size = sound_file
    damaged = bytearray(sound)
    # structure is at both ends of the header: the vocabulary in the middle is long
    place = st.one_of(st.integers(0, 600), st.integers(header_size - 1800, header_size - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(place)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    path.write_bytes(damaged)
    begin = time.perf_counter()
    with contextlib.suppress(CheckpointError):
        open_model(path)
    assert time.perf_counter() - begin < 10.0
