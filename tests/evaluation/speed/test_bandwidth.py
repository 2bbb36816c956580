"""The bandwidth probe: plausible figures, and the machine left as it was."""

import time

import pytest
import torch

from gossamer.errors import UsageError
from gossamer.evaluation.speed.bandwidth import Bandwidth, measure, read_bandwidth


def test_bandwidth_is_bytes_read_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 0.5, 1.0, 1.25, 2.0, 3.0])  # readings of 0.5, 0.25 and 1 second
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    found = measure(torch.ones(125_000_000 // 8, dtype=torch.int64), threads=1, repeats=3)
    assert found == Bandwidth(
        gb_per_s=pytest.approx(0.25),
        best_gb_per_s=pytest.approx(0.5),
        threads=1,
        size_bytes=125_000_000,
        repeats=3,
    )


def test_probe_is_quick_and_within_what_memory_can_do() -> None:
    started = time.perf_counter()
    found = read_bandwidth(1, size_bytes=1 << 24, repeats=3)
    assert time.perf_counter() - started < 10
    assert 0.1 < found.gb_per_s <= found.best_gb_per_s < 1000
    assert (found.threads, found.size_bytes, found.repeats) == (1, 1 << 24, 3)


def test_probe_puts_the_number_of_threads_back() -> None:
    before = torch.get_num_threads()
    read_bandwidth(before + 1, size_bytes=1 << 20, repeats=1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"repeats": 0}, {"size_bytes": 8}])
def test_probe_refuses_what_cannot_be_measured(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="expected"):
        read_bandwidth(**{"threads": 1, **wrong})
