"""The first line of a page of figures: what made them, where, and with which versions."""

from typing import Any


def heading(record: dict[str, Any], more: str = "") -> str:
    """Return it without the full stop at its end; `more` stands behind the CPU."""
    packages = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    return f"`{record['command']}` on {record['cpu']}{more}; {packages}"
