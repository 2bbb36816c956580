"""What tells of long work."""

import pytest

from gossamer import progress


def test_work_that_is_soon_over_is_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [100.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    tell = progress.late(lambda *what: told.append(what), seconds=1.5)
    tell("reading", 0, 3)
    now[0] += 1.6
    tell("reading", 1, 3)
    assert told == [("reading", 1, 3)]
