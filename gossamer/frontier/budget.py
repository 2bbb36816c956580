"""What the user asks for: `size=60MB`, `latency=5ms` or `perplexity=+5%`."""

import difflib
import math
import re
from dataclasses import dataclass
from typing import Literal

from gossamer.errors import UsageError

UNITS = {
    "size": {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "perplexity": {"%": 0.01},
}
EXAMPLES = {"size": "60MB", "latency": "5ms", "perplexity": "+5%"}


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit."""

    key: str
    """size, latency or perplexity."""
    limit: float
    """Bytes of the folder, milliseconds for one decoded token, or perplexity over the dense model's (1.05)."""
    text: str
    """As it was given."""

    @property
    def axis(self) -> Literal["size", "latency"]:
        """What perplexity is weighed against."""
        return "latency" if self.key == "latency" else "size"

    @property
    def largest_loss(self) -> float:
        """The logarithm of the perplexity ratio that is allowed."""
        return math.log(self.limit) if self.key == "perplexity" else math.inf

    def allows(self, size_bytes: float, latency_ms: float | None, ratio: float) -> bool:
        """True if these figures are within the limit."""
        figure = {"size": size_bytes, "latency": latency_ms, "perplexity": ratio}[self.key]
        return figure is not None and figure <= self.limit


def parse_budget(text: str) -> Budget:
    """Read a budget; UsageError for another key, unit or number."""
    key, _, value = (part.strip() for part in text.partition("="))
    if key not in UNITS:
        close = difflib.get_close_matches(key, UNITS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise UsageError(f"--budget {text!r:.60}: unknown key '{key:.30}'.{hint} {_usage()}")
    found = re.fullmatch(r"([+]?)(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z%]+)", value)
    unit = UNITS[key].get(found[3]) if found else None
    if found is None or unit is None or bool(found[1]) != (key == "perplexity"):
        raise UsageError(
            f"--budget {text!r:.60}: expected a number and {' or '.join(UNITS[key])}, as in "
            f"{key}={EXAMPLES[key]}; got '{value:.30}'."
        )
    number = float(found[2]) * unit
    if not 0 < number < math.inf:
        raise UsageError(f"--budget {text!r:.60}: expected more than 0.")
    return Budget(key, 1.0 + number if key == "perplexity" else number, f"{key}={value}")


def _usage() -> str:
    return "Use " + ", ".join(f"{key}={value}" for key, value in EXAMPLES.items()) + "."
