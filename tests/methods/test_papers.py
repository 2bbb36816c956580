"""The index of papers names every method file, and only tests that exist."""

import re
from pathlib import Path

from gossamer.recipe.table import METHODS

ROOT = Path(__file__).parents[2]
ROWS = [
    line
    for line in (ROOT / "docs/papers.md").read_text().splitlines()
    if line.startswith("| ") and "`" in line
]
NOT_FROM_A_PAPER = {"__init__", "layer_weight", "target"}


def test_every_method_file_has_a_row_and_every_row_a_file():
    named = {path for row in ROWS for path in re.findall(r"`(gossamer/methods/\w+\.py)`", row)}
    files = {path.stem for path in (ROOT / "gossamer/methods").glob("*.py")} - NOT_FROM_A_PAPER
    assert {f"gossamer/methods/{stem}.py" for stem in files} == named


def test_every_parity_test_exists():
    for row in ROWS:
        source = ""
        for path, name in re.findall(r"`(tests/[\w/]+\.py)?::(\w+)`", row):
            source = (ROOT / path).read_text() if path else source
            assert f"def {name}(" in source


def test_every_method_page_says_what_when_cost_settings_and_source():
    page = (ROOT / "docs/methods.md").read_text()
    for method in METHODS:
        section = page.split(f"\n## {method}\n")[1].split("\n## ")[0]
        for heading in ("What it does", "When", "Cost", "Settings", "Source"):
            assert f"**{heading}.**" in section
