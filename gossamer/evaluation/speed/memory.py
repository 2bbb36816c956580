"""How much memory a process holds, and how much it held at most.

Linux counts two kinds apart (proc(5), /proc/PID/status). *Anonymous* memory (RssAnon + RssShmem) is what
the process itself asked for and nothing can take back. *File* memory (RssFile) is pages of mapped files,
among them the libraries and memory-mapped weights, which the kernel may drop and read again. The resident
size is the sum. Elsewhere only the peak of the resident size is known (getrusage), and the rest is None.

A child's `ru_maxrss` starts with its parent's peak (the kernel carries it over at exec), so that a fresh
process is watched through its own /proc entry instead.
"""

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gossamer.errors import RunError

SAMPLE_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of a process at one moment, in bytes."""

    resident: int
    anonymous: int
    file: int
    peak_resident: int
    """Since the process started, or since the peak was reset."""


def usage(pid: int | None = None) -> Usage | None:
    """Return the memory of a process (default: this one), or None where that cannot be read."""
    try:
        text = Path(f"/proc/{'self' if pid is None else pid}/status").read_text(
            encoding="ascii", errors="replace"
        )
    except OSError:
        return None
    fields = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM", "RssAnon", "RssFile", "RssShmem"):
            fields[name] = int(value.split()[0]) * 1024
    if len(fields) < 5:  # a zombie or a kernel thread has no memory, an old kernel no breakdown
        return None
    anonymous = fields["RssAnon"] + fields["RssShmem"]
    return Usage(fields["VmRSS"], anonymous, fields["RssFile"], fields["VmHWM"])


def peak_resident_bytes() -> int:
    """Return the most memory that this process held since it started or since `reset_peak`."""
    now = usage()
    if now is not None:
        return now.peak_resident
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> bool:
    """Let the peak of this process start again from what it holds now. False where that is not permitted."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


class PeakMemory:
    """Watches this process's memory: `with PeakMemory() as memory: ...; memory.peak_anonymous_bytes`.

    A thread looks every 10 ms. Between two looks a peak can be missed, except the resident one where the
    kernel lets us reset its own record (`exact`).
    """

    def __init__(self, sample_seconds: float = SAMPLE_SECONDS) -> None:
        self.exact = False
        self.peak_anonymous_bytes: int | None = None
        self.peak_file_bytes: int | None = None
        self._peak_resident = 0
        self._seconds = sample_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gossamer-memory", daemon=True)

    @property
    def peak_resident_bytes(self) -> int:
        return self._peak_resident

    def __enter__(self) -> Self:
        self.exact = reset_peak()
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds):
            self._look()

    def _look(self) -> None:
        now = usage()
        if now is None:
            self._peak_resident = peak_resident_bytes()
            return
        self.peak_anonymous_bytes = max(self.peak_anonymous_bytes or 0, now.anonymous)
        self.peak_file_bytes = max(self.peak_file_bytes or 0, now.file)
        resident = now.peak_resident if self.exact else now.resident
        self._peak_resident = max(self._peak_resident, resident)


@dataclass(frozen=True, slots=True)
class IsolatedRun:
    """What a command printed, and what it needed."""

    output: str
    seconds: float
    """From start to end, the interpreter's own start included."""
    peak_resident_bytes: int | None
    """Sampled every 10 ms from outside; None where processes cannot be watched."""


def run_isolated(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> IsolatedRun:
    """Run `command` in a process of its own, so that the figures of two models do not mix.

    Raises RunError, with the end of what it wrote to stderr, when it fails or takes longer than `timeout_s`.
    """
    started = time.perf_counter()
    peak: int | None = None
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaints:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=complaints,
            env=None if environment is None else {**os.environ, **environment},
        ) as process:
            try:
                while process.poll() is None:
                    now = usage(process.pid)
                    if now is not None:
                        peak = max(peak or 0, now.peak_resident)
                    if timeout_s is not None and time.perf_counter() - started > timeout_s:
                        raise RunError(f"{_short(command)}: stopped after {timeout_s:g} seconds")
                    time.sleep(SAMPLE_SECONDS)
            except BaseException:
                process.kill()
                raise
        seconds = time.perf_counter() - started
        if process.returncode:
            raise RunError(
                f"{_short(command)}: ended with {process.returncode}\n{_tail(complaints.fileno())}".rstrip()
            )
        output.seek(0)
        return IsolatedRun(output.read().decode("utf-8", "replace"), seconds, peak)


def _short(command: Sequence[str]) -> str:
    return " ".join(command)[:200]


def _tail(descriptor: int, size: int = 2000) -> str:
    """The last bytes of what a process wrote."""
    start = max(0, os.lseek(descriptor, 0, os.SEEK_END) - size)
    return os.pread(descriptor, size, start).decode("utf-8", "replace")
