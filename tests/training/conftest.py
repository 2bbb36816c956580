"""Compressed tiny models, each made once a session. Not to be changed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.folders import compress_tiny

Folders = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Folders:
    """Give (parent, compressed) of a form (tests/training/folders.py) and a kind of model."""
    made: dict[tuple[str, str], tuple[Path, Path]] = {}

    def get(form: str, kind: str = "llama") -> tuple[Path, Path]:
        if (form, kind) not in made:
            made[form, kind] = compress_tiny(form, tmp_path_factory.mktemp("recover"), text, kind)
        return made[form, kind]

    return get
