"""The manifest: read with care, added to without loss, and never in the way of a result."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from gossamer import files
from gossamer.checkpoint.manifest import FORMAT_VERSION, add_measurement, read_manifest, remember
from gossamer.errors import CheckpointError


def folder_with(tmp_path: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "gossamer.json").write_text(text)
    return tmp_path


def test_what_was_measured_is_added_and_everything_else_stays(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path, {"format_version": FORMAT_VERSION, "tensors": {"a": 1}, "measured": {"x": 1}}
    )
    add_measurement(folder, "evaluation", {"perplexity": 24.5})
    add_measurement(folder, "x", {"new": "ä"})
    assert read_manifest(folder) == {
        "format_version": FORMAT_VERSION, "tensors": {"a": 1},
        "measured": {"x": {"new": "ä"}, "evaluation": {"perplexity": 24.5}},
    }  # fmt: skip
    assert [path.name for path in folder.iterdir()] == ["gossamer.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "JSON"), ("{", "JSON"), ("[1]", "version None"), ("7", "version None"), ("[" * 100_000, "JSON"),
        ({"format_version": 99}, "version 99"), ({}, "version None"), ({"format_version": "1"}, "version '1'"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_explained(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_manifest(folder_with(tmp_path, content))


def test_bytes_that_are_no_text_are_explained(tmp_path: Path) -> None:
    (tmp_path / "gossamer.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(CheckpointError, match="JSON"):
        read_manifest(tmp_path)


def test_a_folder_without_one_says_where_it_would_come_from(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gossamer compress"):
        read_manifest(tmp_path)
    with pytest.raises(CheckpointError, match="gossamer compress"):
        read_manifest(tmp_path / "none")


@pytest.mark.parametrize("measured", [None, [], "x", 3])
def test_measurements_of_a_wrong_type_are_replaced(measured: Any, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"format_version": FORMAT_VERSION, "measured": measured})
    add_measurement(folder, "a", {"b": 1})
    assert read_manifest(folder)["measured"] == {"a": {"b": 1}}


def test_only_compressed_folders_remember(tmp_path: Path) -> None:
    remember(tmp_path, "evaluation", {})
    remember(tmp_path / "model.gguf", "evaluation", {})
    remember("owner/name", "evaluation", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_to_is_left_as_it_is(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(number, "refused")

    folder = folder_with(tmp_path, {"format_version": FORMAT_VERSION})
    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", refuse)
    remember(folder, "evaluation", {"perplexity": 1.0})
    assert "could not be kept" in caplog.text
    assert read_manifest(folder) == {"format_version": FORMAT_VERSION}
