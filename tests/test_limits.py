"""What can be read in one go stays so: no file over 400 lines, no class over 250, no function over 60."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FILE, LONGEST_CLASS, LONGEST_FUNCTION = 400, 250, 60
FOLDERS = ("gossamer", "tests", "benchmarks", "scripts", "csrc")


def too_long(path: Path) -> list[str]:
    """What of a source file is over the limits."""
    text, where = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
    lines = len(text.splitlines())
    found = [f"{where}: {lines} lines"] if lines > LONGEST_FILE else []
    for node in ast.walk(ast.parse(text)) if path.suffix in (".py", ".pyi") else ():
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > (LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION):
                found.append(f"{where}:{node.lineno} {node.name}: {lines} lines")
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_class_or_function_is_over_the_limits(folder: str) -> None:
    sources = [
        path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".pyi", ".cpp", ".h", ".hpp")
    ]
    assert sources
    assert [each for path in sources for each in too_long(path)] == []
