"""The text is split so that nothing is both seen and judged by."""

from pathlib import Path

import pytest

from gossamer.data.sources import Document, read_documents
from gossamer.errors import DataError
from gossamer.frontier.split import divided, split_text


def test_the_parts_are_disjoint_and_together_the_whole() -> None:
    documents = [Document(f"document {number}: " + "word " * 50, str(number)) for number in range(20)]
    before, after = divided(documents, "text")
    assert "".join(each.text for each in (*before, *after)) == "".join(each.text for each in documents)
    seen = sum(len(each.text) for each in before)
    assert seen / (seen + sum(len(each.text) for each in after)) == pytest.approx(0.75, abs=0.03)


def test_one_document_is_cut_between_lines() -> None:
    text = "\n".join(f"line {number}" for number in range(100))
    (before,), (after,) = divided([Document(text, "one")], "text")
    assert before.text.endswith("\n")
    assert after.text.startswith("line ")
    assert before.text + after.text == text


def test_a_text_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(DataError, match="too short"):
        divided([Document("a", "one")], "tiny.txt")


def test_the_files_can_be_read_as_text_and_are_written_once(text: Path, tmp_path: Path) -> None:
    first = split_text(str(text), tmp_path)
    assert all(list(read_documents(path)) for path in first)
    times = [path.stat().st_mtime_ns for path in first]
    assert split_text("no such text any more", tmp_path) == first
    assert [path.stat().st_mtime_ns for path in first] == times
