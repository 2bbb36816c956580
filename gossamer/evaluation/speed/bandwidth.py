"""How fast this machine reads memory: the ceiling that decoding one token at a time runs against.

What is measured: `torch.sum` over a buffer of int64 with T of torch's threads, bytes / median time. Nothing
is written. In cache the sum runs at about 90 GB/s a core (AVX-512), several times what memory delivers, so
that the figure is the memory's and not the adder's. The buffer is touched page by page before (a fresh one
would be the kernel's one zero page, read from cache). The default of 512 MB is larger than the last-level
cache of common machines; smaller buffers measure a cache, which is what a small model runs from.

`memcpy` figures of other tools count reads and writes, and cannot be compared.
"""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.errors import UsageError
from gossamer.evaluation.speed.threads import torch_threads

COLD_BYTES = 512 * 10**6
SMALLEST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Read bandwidth; 1 GB = 10^9 bytes."""

    gb_per_s: float
    """Median of the repeats."""
    best_gb_per_s: float
    threads: int
    size_bytes: int
    repeats: int


def read_bandwidth(threads: int, size_bytes: int = COLD_BYTES, repeats: int = 5) -> Bandwidth:
    """Measure the read bandwidth of `threads` threads over a buffer of `size_bytes`.

    Takes the buffer's time to fill and `repeats` + 1 readings of it: about half a second for the default.

    Raises UsageError for fewer than one thread or repeat, or a buffer that fits in a core's first cache.
    """
    if repeats < 1 or size_bytes < SMALLEST_BYTES:
        raise UsageError(
            f"read_bandwidth: expected repeats >= 1 and size_bytes >= {SMALLEST_BYTES}, "
            f"got {repeats} and {size_bytes}"
        )
    with torch_threads(threads):
        buffer = torch.full((size_bytes // 8,), 1, dtype=torch.int64)
        return measure(buffer, threads, repeats)


def measure(buffer: Tensor, threads: int, repeats: int) -> Bandwidth:
    """Read `buffer` once unmeasured, then `repeats` times."""
    buffer.sum()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        buffer.sum()
        seconds.append(time.perf_counter() - started)
    size_bytes = buffer.numel() * buffer.element_size()
    return Bandwidth(
        gb_per_s=size_bytes / statistics.median(seconds) / 1e9,
        best_gb_per_s=size_bytes / min(seconds) / 1e9,
        threads=threads,
        size_bytes=size_bytes,
        repeats=repeats,
    )
