"""One call of the command line, and how a refusal looks."""

import json
from typing import Any


class Run:
    """One call of the command line in this process: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def refused(result: Run, *words: str) -> None:
    """Exit code 2, nothing on stdout, and one short message without a traceback."""
    assert result.code == 2, result.err
    assert result.out == ""
    message = result.err.rpartition("gossamer: ")[2]
    assert "gossamer: " in result.err
    assert "Traceback" not in result.err
    assert "a defect" not in message
    assert len(message) < 1500
    for word in words:
        assert word in message
