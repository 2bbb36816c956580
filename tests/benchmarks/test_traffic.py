"""What a token costs: every matrix that a token is multiplied with is counted once, with its bytes."""

import pytest
import torch

from benchmarks import traffic
from gossamer.checkpoint.manifest import read_manifest
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.quantized import Quantized


def integers(rows: int, columns: int = 64) -> IntegerWeight:
    codes_OI = torch.zeros(rows, columns, dtype=torch.uint8)
    return IntegerWeight.pack(Quantized(codes_OI, torch.ones(rows, columns // 32), None, 8, 32))


def test_every_packed_matrix_is_there_once(compressed) -> None:
    folder = compressed("llama").folder
    declared = [entry["bytes"] for entry in read_manifest(folder)["tensors"].values()]
    assert [packed.num_bytes for packed in traffic.matrices(folder)] == declared


def test_a_matrix_larger_than_a_cache_is_timed_by_a_part_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    large = integers(32_768)
    part = traffic.part_of(large, 1024)
    assert (part.shape, part.meta()["group_size"]) == ((1024, 64), 32)
    monkeypatch.setattr(traffic, "repeated", lambda packed: packed.num_bytes * 1e-9)
    monkeypatch.setattr(traffic, "call_seconds", lambda _: 0.0)
    assert traffic.seconds_of(large) == pytest.approx(large.num_bytes * 1e-9)
    assert traffic.seconds_of(integers(64)) == pytest.approx(integers(64).num_bytes * 1e-9)


def test_the_bandwidth_is_probed_with_as_many_bytes_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    native = traffic.native_module()
    assert native is not None
    before, asked = native.isa(), []
    monkeypatch.setattr(IntegerWeight, "matmul", lambda self, *_: asked.append(self.num_bytes))
    monkeypatch.setattr(traffic, "call_seconds", lambda _: 0.0)
    several = [integers(64) for _ in range(8)]
    assert traffic.bandwidth_of(several, 3 * several[0].num_bytes) > 0
    assert len(asked) == 6 * 3
    assert native.isa() == before


def test_a_reader_tells_its_bandwidth_and_none_tells_nothing() -> None:
    with traffic.reading(0, 0) as told:
        pass
    assert told == {}
    with traffic.reading(0, 1) as told:
        pass
    assert told["gb_per_s"] >= 0


def test_the_table_has_the_error_of_each_prediction() -> None:
    row = {
        "isa": "avx2", "model": "int4", "reader_gb_per_s": None, "megabytes": 90.0, "arithmetic_ms": 4.0,
        "bandwidth_gb_per_s": 20.0, "predicted": 110.0, "measured": 100.0,
    }  # fmt: skip
    table = traffic.as_table([row, {**row, "reader_gb_per_s": 9.5}], 0.001)
    assert "rest 1.00 ms" in table
    assert "| int4 |  | 90.0 | 4.00 | 20.0 | 110 | 100 | +10% |" in table
    assert "| int4 | 9.5 |" in table
