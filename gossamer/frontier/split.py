"""One text in two disjoint parts: what the search may look at, and what it is judged by.

Duplicates go first; then the first three quarters of the characters calibrate and the rest is held out. The document
at the border is cut between two lines where it has any near, else between two words.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from gossamer.data.deduplicate import deduplicate
from gossamer.data.sources import Document, read_documents
from gossamer.errors import DataError
from gossamer.files import write_text

HELD_OUT = 0.25
CALIBRATION_FILE, HELD_OUT_FILE = "calibration.jsonl", "heldout.jsonl"


def split_text(text: str, folder: Path) -> tuple[Path, Path]:
    """Write the two parts to `folder` and return their files (calibration, held out). Nothing is written twice.

    Raises DataError when the text is too short to be split.
    """
    paths = folder / CALIBRATION_FILE, folder / HELD_OUT_FILE
    if all(path.is_file() for path in paths):
        return paths
    documents = deduplicate(read_documents(text)).documents
    for path, part in zip(paths, divided(documents, text), strict=True):
        lines = [json.dumps({"text": document.text}, ensure_ascii=False) + "\n" for document in part]
        write_text(path, "".join(lines))
    return paths


def divided(documents: Sequence[Document], name: str) -> tuple[list[Document], list[Document]]:
    """Return the documents before the border and those behind it."""
    border = round((1 - HELD_OUT) * sum(len(document.text) for document in documents))
    before: list[Document] = []
    after: list[Document] = []
    for document in documents:
        cut = _cut(document.text, border)
        border -= len(document.text)
        for part, piece in ((before, document.text[:cut]), (after, document.text[cut:])):
            if piece.strip():
                part.append(Document(piece, document.name))
    if not before or not after:
        raise DataError(f"{name}: too short to be split into a part to calibrate on and one to judge by.")
    return before, after


def _cut(text: str, border: int) -> int:
    """Where to cut near the border, within the text."""
    if border <= 0 or border >= len(text):
        return max(0, min(border, len(text)))
    for mark in ("\n", " "):
        place = text.rfind(mark, border // 2, border)
        if place >= 0:
            return place + 1
    return border
