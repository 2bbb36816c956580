"""Peak memory: sees what a block of code holds, tells the two kinds apart, and keeps processes apart."""

import mmap
import sys
import time
from pathlib import Path

import pytest
import torch

from gossamer.errors import RunError
from gossamer.evaluation.speed import memory
from gossamer.evaluation.speed.memory import PeakMemory, peak_resident_bytes, run_isolated, usage

MB = 1 << 20
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@linux
def test_resident_memory_is_the_sum_of_both_kinds() -> None:
    now = usage()
    assert now is not None
    assert now.resident == pytest.approx(now.anonymous + now.file, rel=0.02)
    assert now.peak_resident >= now.resident * 0.98
    assert peak_resident_bytes() >= now.resident * 0.98


@linux
def test_peak_contains_memory_that_was_given_back() -> None:
    with PeakMemory() as watched:
        before = usage()
        with mmap.mmap(-1, 64 * MB) as buffer:  # torch might have as much to spare
            for page in range(0, 64 * MB, mmap.PAGESIZE):
                buffer[page] = 1
            time.sleep(0.05)
    assert before is not None
    assert watched.peak_anonymous_bytes is not None
    grown = watched.peak_anonymous_bytes - before.anonymous
    assert 60 * MB < grown < 90 * MB
    assert watched.peak_resident_bytes >= before.resident + 60 * MB


@linux
def test_mapped_files_do_not_count_as_anonymous(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"\1" * (48 * MB))
    with PeakMemory() as watched, path.open("rb") as file:
        before = usage()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert sum(mapped[::4096]) == 48 * MB // 4096
            time.sleep(0.05)
    assert before is not None
    assert watched.peak_file_bytes is not None
    assert watched.peak_anonymous_bytes is not None
    assert watched.peak_file_bytes - before.file > 40 * MB
    assert watched.peak_anonymous_bytes - before.anonymous < 16 * MB


@linux
def test_an_earlier_peak_does_not_count_where_the_kernel_lets_it_be_reset() -> None:
    buffer = torch.ones(64 * MB, dtype=torch.uint8)
    del buffer
    high = peak_resident_bytes()
    with PeakMemory() as watched:
        pass
    if not watched.exact:
        pytest.skip("resetting the peak is not permitted here")
    assert watched.peak_resident_bytes < high - 32 * MB


def test_without_proc_the_resident_peak_is_still_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "usage", lambda pid=None: None)
    with PeakMemory() as watched:
        pass
    assert watched.peak_anonymous_bytes is None
    assert watched.peak_file_bytes is None
    assert watched.peak_resident_bytes > MB


@linux
def test_isolated_run_counts_only_its_own_memory() -> None:
    ballast = torch.ones(200 * MB, dtype=torch.uint8)  # the parent's memory must not show in the child
    small = run_isolated([sys.executable, "-S", "-c", "import time; time.sleep(0.1); print('ok')"])
    large = run_isolated(
        [sys.executable, "-S", "-c", "import time; b = bytearray(b'1') * 100_000_000; time.sleep(0.1)"]
    )
    del ballast
    assert small.output == "ok\n"
    assert small.peak_resident_bytes is not None
    assert large.peak_resident_bytes is not None
    assert small.peak_resident_bytes < 60 * MB
    assert 95 * MB < large.peak_resident_bytes - small.peak_resident_bytes < 130 * MB
    assert small.seconds >= 0.1


def test_isolated_run_reports_why_a_command_failed() -> None:
    with pytest.raises(RunError, match=r"ended with 3\nit is broken"):
        run_isolated(
            [sys.executable, "-S", "-c", "import sys; sys.stderr.write('it is broken'); sys.exit(3)"]
        )


def test_isolated_run_stops_what_takes_too_long() -> None:
    started = time.perf_counter()
    with pytest.raises(RunError, match=r"stopped after 0\.2 seconds"):
        run_isolated([sys.executable, "-S", "-c", "import time; time.sleep(60)"], timeout_s=0.2)
    assert time.perf_counter() - started < 20


def test_isolated_run_passes_the_environment_on() -> None:
    run = run_isolated(
        [sys.executable, "-S", "-c", "import os; print(os.environ['WANTED'], 'PATH' in os.environ)"],
        environment={"WANTED": "yes"},
    )
    assert run.output == "yes True\n"
