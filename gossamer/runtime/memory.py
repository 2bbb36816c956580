"""How much memory may still be used."""

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int | None:
    """Return what the system and the cgroup still have to give; None where neither says so."""
    limits = [limit for limit in (_system(), _cgroup()) if limit is not None]
    return min(limits) if limits else None


def _system() -> int | None:
    for line in _lines(MEMINFO):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _cgroup() -> int | None:
    limit, used = _lines(CGROUP / "memory.max"), _lines(CGROUP / "memory.current")
    if not limit or not used or not limit[0].isdigit():
        return None
    cached = next(
        (line.split()[1] for line in _lines(CGROUP / "memory.stat") if line.startswith("file ")), "0"
    )
    return max(0, int(limit[0]) - int(used[0]) + int(cached))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
