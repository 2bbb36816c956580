"""Arguments of a search that takes seconds on a tiny model."""

from typing import Any

QUICK: dict[str, Any] = {"samples": 4, "length": 32, "windows": 2, "minutes": 10}
BUDGET = "size=85KB"
