"""What a timing was taken on, and how much else was going on there."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from gossamer.version import __version__

STEAL_LIMIT = 0.02
OTHERS_LIMIT = 0.05
"""Shares of the time of all cores: of other virtual machines, and of other processes."""


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
        "gossamer": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


@dataclass(frozen=True, slots=True)
class Business:
    """How busy the machine is at one moment. Times are seconds, those of all cores added up."""

    loadavg: float | None
    """Processes that run or want to, mean of the last minute."""
    all_seconds: float
    """Since boot; 0 where the system does not tell."""
    used_seconds: float
    """By processes."""
    own_seconds: float
    """By this process and the ended ones that it had started."""
    stolen_seconds: float
    """By other virtual machines."""


def business() -> Business:
    """Look at the machine now."""
    loadavg = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    own = sum(os.times()[:4])
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        seconds = [int(word) / os.sysconf("SC_CLK_TCK") for word in first.split()[1:9]]
        user, nice, system, idle, waiting, interrupts, soft_interrupts, stolen = seconds
    except (OSError, ValueError):
        return Business(loadavg, 0.0, 0.0, own, 0.0)
    used = user + nice + system + interrupts + soft_interrupts
    return Business(loadavg, used + idle + waiting + stolen, used, own, stolen)


def steal_share(before: Business, after: Business) -> float:
    """Return the share of the time between two looks that other virtual machines took, 0..1."""
    return _share(before, after, after.stolen_seconds - before.stolen_seconds)


def others_share(before: Business, after: Business) -> float:
    """Return the share of the time between two looks that other processes took, 0..1."""
    used, own = after.used_seconds - before.used_seconds, after.own_seconds - before.own_seconds
    return _share(before, after, max(0.0, used - own))


def is_noisy(before: Business, after: Business) -> bool:
    """True when other processes took over 5 % of the time between two looks, or other virtual machines over 2 %."""
    return others_share(before, after) > OTHERS_LIMIT or steal_share(before, after) > STEAL_LIMIT


def noise(before: Business, after: Business) -> dict[str, bool | float]:
    """Return what a report says of the time between two looks: `noisy`, `others_share`, `steal_share`."""
    return {
        "noisy": is_noisy(before, after),
        "others_share": others_share(before, after),
        "steal_share": steal_share(before, after),
    }


def _share(before: Business, after: Business, seconds: float) -> float:
    passed = after.all_seconds - before.all_seconds
    return seconds / passed if passed > 0 else 0.0
