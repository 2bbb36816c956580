"""The command line in this process, and what it is given."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gossamer.cli import app as cli
from tests.cli.runs import Run
from tests.conftest import Case

HALF = "steps: [{layers: '*', method: magnitude, sparsity: 0.5}]"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    def call(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["gossamer", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Run(code if isinstance(code, int) else 0, printed.out, printed.err)

    return call


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "half.yaml"
    path.write_text(HALF)
    return path


@pytest.fixture
def folder(compressed: Callable[[str], Case], tmp_path: Path) -> Path:
    """A compressed folder that may be changed."""
    return Path(shutil.copytree(compressed("llama").folder, tmp_path / "small"))
