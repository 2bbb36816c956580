"""What was measured is found again; what belongs to another search is refused."""

from pathlib import Path

import pytest

from gossamer.errors import UsageError
from gossamer.frontier.state import STATE_FILE, State


def test_measurements_are_found_again(tmp_path: Path) -> None:
    state = State(tmp_path, {"budget": "size=1MB"})
    state.put("kl", "a int4", [0.5, 0.1])
    state.save()
    again = State(tmp_path, {"budget": "size=1MB"})
    assert again.resumed
    assert again.section("kl") == {"a int4": [0.5, 0.1]}


def test_another_argument_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    State(tmp_path, {"budget": "size=1MB", "windows": 8}).save()
    before = (tmp_path / STATE_FILE).read_bytes()
    with pytest.raises(UsageError, match=r"windows 8 was begun here, and now windows is 4"):
        State(tmp_path, {"budget": "size=1MB", "windows": 4})
    assert (tmp_path / STATE_FILE).read_bytes() == before


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": 1, "arguments": 3, "sections": {}}', "\xff"]
)
def test_a_damaged_file_is_one_clear_error(content: str, tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=r"not readable|another version"):
        State(tmp_path, {})
