"""The text that a run is shown, and runs that need none."""

from pathlib import Path

import pytest

from gossamer.errors import DataError, UsageError
from tests.compression.runs import MAGNITUDE, small_run
from tests.conftest import CALIBRATION
from tests.models import tiny_model


def test_without_text_the_model_writes_its_own_and_the_notes_say_so(parent, tmp_path: Path) -> None:
    manifest = small_run(parent("llama"), "steps: [{method: wanda}]", tmp_path / "out", samples=2, length=8)
    assert manifest["calibration"]["source"] == "written by the model itself"
    assert any("wrote itself" in note for note in manifest["notes"])
    assert manifest["calibration"]["tokens"] == 16


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_a_model_that_cannot_write_text_asks_for_some(kind: str, parent, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--text"):
        small_run(parent(kind), "steps: [{method: wanda}]", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "text"), (b"  \n\n", "text"), (b"far too short", "need"), (b"\xff\xfe\x00\x80" * 50, "UTF-8")],
)
def test_text_that_is_empty_too_short_or_binary_is_refused(
    content: bytes, words: str, parent, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        small_run(
            parent("llama"), "steps: [{method: wanda}]", tmp_path / "out", text=str(path), **CALIBRATION
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["calibration.txt"]


def test_missing_text_is_refused(parent, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        small_run(
            parent("llama"), "steps: [{method: wanda}]", tmp_path / "out", text=str(tmp_path / "none.txt")
        )
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_tokenizer_cannot_be_shown_text_but_needs_none_for_rounding(
    text: Path, tmp_path: Path
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    with pytest.raises(UsageError, match="tokenizer"):
        small_run(tmp_path / "dense", "steps: [{method: wanda}]", tmp_path / "out", text=str(text))
    manifest = small_run(tmp_path / "dense", MAGNITUDE.format("sparsity: 0.5"), tmp_path / "out")
    assert manifest["calibration"] == {"source": None}


def test_windows_are_shortened_to_the_positions_that_the_model_has(
    parent, text: Path, tmp_path: Path
) -> None:
    recipe = "calibration: {samples: 2, length: 512}\nsteps: [{layers: '*.0.*', method: wanda}]"
    manifest = small_run(parent("whisper"), recipe, tmp_path / "out", text=str(text))
    assert manifest["calibration"]["length"] == 64
    assert any("shortened from 512 to the 64" in note for note in manifest["notes"])
    with pytest.raises(UsageError, match="--length 300"):
        small_run(parent("gpt2"), recipe, tmp_path / "long", text=str(text), length=300)
    assert not (tmp_path / "long").exists()


def test_a_text_that_no_step_goes_by_is_not_read_and_the_notes_say_so(parent, tmp_path: Path) -> None:
    manifest = small_run(
        parent("llama"), MAGNITUDE.format("sparsity: 0.5"), tmp_path / "out", text="nowhere.txt"
    )
    assert manifest["calibration"]["source"] is None
    assert any(note.startswith("--text was not read") for note in manifest["notes"])
