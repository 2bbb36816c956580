"""README and docs name what is there: files, modules, rooms, the order of imports."""

import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, blocks, name_of

HISTORY = ROOT / "docs/log.md"
"""Tells of files as they were called when it was written."""
SOURCES = [
    path.relative_to(ROOT).as_posix()
    for room in ("gossamer", "csrc", "benchmarks", "examples", "scripts", "tests")
    for path in (ROOT / room).rglob("*")
]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_a_file_of_this_project_that_is_not_there(page: Path) -> None:
    for path in re.findall(
        r"`((?:gossamer|csrc|tests|scripts|examples)/[\w./-]+)", page.read_text(encoding="utf-8")
    ):
        assert (ROOT / path).exists() or "NAME" in path, path


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=name_of)
def test_every_source_file_that_a_page_names_is_somewhere(page: Path) -> None:
    """Also those that are named without the folders before, such as `solve/pattern.py`."""
    for path in re.findall(r"`([\w./-]+\.(?:py|pyi|cpp|h|j2))[:`]", page.read_text(encoding="utf-8")):
        known = any(f"/{source}".endswith(f"/{path.removeprefix('/')}") for source in SOURCES)
        assert known or "NAME" in path or path == "llama.cpp", path


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=name_of)
def test_every_name_in_our_package_that_a_page_uses_leads_to_something(page: Path) -> None:
    for name in set(re.findall(r"\bgossamer(?:\.\w+)+", page.read_text(encoding="utf-8"))):
        if name != "gossamer.json":
            pkgutil.resolve_name(name)


# ---- the map ----------------------------------------------------------------------------------------------


def levels_of_imports() -> list[str]:
    """The levels of import-linter's contract, from the top down."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    levels: list[str] = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return levels


def rooms() -> set[str]:
    return {path.parent.name for path in (ROOT / "gossamer").glob("*/__init__.py")}


def test_the_map_draws_imports_as_they_are_checked() -> None:
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^    (__main__ >.*(?:\n {8}>.*)*)$", page, re.MULTILINE)
    assert len(drawn) == 1
    assert [" ".join(level.split()) for level in drawn[0].split(">")] == levels_of_imports()
    assert len(levels_of_imports()) <= 16


def test_the_map_has_every_room_and_no_other() -> None:
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)/` \|", page, re.MULTILINE) == [
        name for level in levels_of_imports() for name in level.split(" | ") if name in rooms()
    ]


def test_the_readme_has_a_line_for_every_room_and_every_folder() -> None:
    tree = next(block.text for block in blocks(ROOT / "README.md") if block.language == "text")
    assert set(re.findall(r"^  (\w+)/", tree, re.MULTILINE)) == rooms()
    for folder in re.findall(r"^(\w+)/", tree, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def test_seven_files_are_named_to_be_read_first() -> None:
    page = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    files = re.findall(r"^\d\. `([\w/.]+)`", page, re.MULTILINE)
    assert len(files) == 7
    assert all((ROOT / file).is_file() for file in files)


def test_every_page_can_be_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme, page.name
