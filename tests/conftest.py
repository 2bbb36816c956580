"""What tests of the whole way share: one thread, a text, and tiny models that were compressed once a session."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import gossamer
from gossamer.formats.packed import PackedWeight, from_tensors
from gossamer.recipe.reader import parse_recipe
from tests.models import save_tiny

RECIPE = """
calibration: {samples: 4, length: 32}
steps:
  - {layers: "*", method: sparsegpt, sparsity: 0.5}
  - {layers: "*", method: gptq, bits: 4, group_size: 32}
  - {layers: [embeddings, head], method: rtn, bits: 8, group_size: 32}
"""
CALIBRATION = {"samples": 4, "length": 32}


@dataclass(frozen=True)
class Case:
    """A dense folder, and the folder that it was compressed to."""

    kind: str
    parent: Path
    folder: Path
    manifest: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        return read_tensors(self.folder)

    def packed(self) -> dict[str, PackedWeight]:
        return read_packed(self.folder, self.manifest)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder under its stored name, read without transformers."""
    tensors = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    return tensors


def read_packed(folder: Path, manifest: dict[str, Any]) -> dict[str, PackedWeight]:
    """Every packed weight of a folder, from the manifest's declarations alone."""
    stored = read_tensors(folder)
    packed = {}
    for name, entry in manifest["tensors"].items():
        own = {
            key.removeprefix(f"{name}."): value for key, value in stored.items() if key.startswith(f"{name}.")
        }
        own.pop("bias", None)
        packed[name] = from_tensors(entry["meta"], own)
    return packed


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--unlocked",
        action="store_true",
        help="other versions than the locked ones are installed: only warnings about our own code are errors",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--unlocked"):
        config.addinivalue_line("filterwarnings", "default")
        config.addinivalue_line("filterwarnings", "error:::(gossamer|tests)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--unlocked"):
        for item in items:
            if item.get_closest_marker("locked"):
                item.add_marker(pytest.mark.skip(reason="of the locked versions only"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of about 40,000 tokens that repeats no sentence."""
    words = ["grass", "web", "light", "river", "seven", "stone", "quiet", "thread", "morning", "spider"]
    sentences = (
        f"The {words[i % 10]} of {words[i * 7 % 9]} number {i * 7919 % 1009} was {words[i * i % 10]} and {i}."
        for i in range(800)
    )
    path = tmp_path_factory.mktemp("text") / "spiders.txt"
    path.write_text("\n\n".join(" ".join(four) for four in zip(*[sentences] * 4, strict=True)))
    return path


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the dense tiny model of a kind."""
    folders: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in folders:
            folder = tmp_path_factory.mktemp("dense") / f"tiny-{kind}"
            save_tiny(kind, folder)
            folders[kind] = folder
        return folders[kind]

    return make


@pytest.fixture(scope="session")
def compressed(
    tmp_path_factory: pytest.TempPathFactory, parent: Callable[[str], Path], text: Path
) -> Callable[[str], Case]:
    """The tiny model of a kind, pruned by half, in 4 bits, with embeddings and head in 8. Not to be changed."""
    cases: dict[str, Case] = {}

    def make(kind: str) -> Case:
        if kind not in cases:
            out = tmp_path_factory.mktemp("compressed") / f"{kind}-small"
            result = gossamer.compress(parent(kind), parse_recipe(RECIPE), out=out, text=str(text))
            cases[kind] = Case(kind, parent(kind), out, result.manifest)
        return cases[kind]

    return make
