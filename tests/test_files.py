"""Files appear whole or not at all, with the permissions that other files get."""

import json
import os
import stat
from pathlib import Path

import pytest

from gossamer import files
from gossamer.files import write_json, write_text, written_whole


def test_json_is_written_whole_or_not_at_all_with_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": "ä"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "ä"}
    (tmp_path / "plain").write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "ä"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["plain", "x.json"]


def test_a_stop_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_contents_and_name_are_flushed_before_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def noting_sync(descriptor: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_sync(descriptor)

    def noting_replace(self: Path, target: Path) -> Path:
        order.append("name")
        return real_replace(self, target)

    monkeypatch.setattr(files.os, "fsync", noting_sync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    write_text(tmp_path / "x.txt", "new")
    assert order == ["file", "name", "folder"]
