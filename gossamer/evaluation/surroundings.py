"""What a timing was taken on, and how much else was going on there."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

import gossamer

STEAL_LIMIT = 0.02


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of what takes part in a timing."""
    return {
        "gossamer": gossamer.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


@dataclass(frozen=True, slots=True)
class Business:
    """How busy the machine is at one moment."""

    loadavg: float | None
    """Processes that run or want to, mean of the last minute."""
    steal_ticks: int
    all_ticks: int
    """Time that other virtual machines took, and all time, in clock ticks since boot."""


def business() -> Business:
    """Look at the machine now."""
    loadavg = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    try:
        ticks = [
            int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        ]
    except (OSError, ValueError):
        ticks = []
    return Business(loadavg, ticks[7] if len(ticks) > 7 else 0, sum(ticks[:8]))


def steal_share(before: Business, after: Business) -> float:
    """Return the share of the time between two looks that other virtual machines took, 0..1."""
    return (after.steal_ticks - before.steal_ticks) / max(1, after.all_ticks - before.all_ticks)


def is_noisy(before: Business, after: Business, cores: int) -> bool:
    """True when more processes wanted to run than there are cores, or over 2 % of the time was taken away."""
    loads = [look.loadavg for look in (before, after) if look.loadavg is not None]
    return any(load > cores for load in loads) or steal_share(before, after) > STEAL_LIMIT
