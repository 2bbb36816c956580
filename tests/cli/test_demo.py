"""The demo, on a tiny model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gossamer.cli import demo
from gossamer.data.assets import DemoAssets
from tests.cli.runs import Run


@pytest.fixture
def assets(parent, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = DemoAssets(parent("llama"), parent("llama"), text, text)
    monkeypatch.setattr(demo, "fetch_demo_assets", lambda report: found)
    monkeypatch.setattr(demo, "RECIPES", ("int8", "sparse50-fast"))
    monkeypatch.setattr(demo, "NUM_WINDOWS", 2)


def test_rows_are_told_as_they_are_known_and_the_end_says_what_to_do(
    assets: None, run: Callable[..., Run], tmp_path: Path
) -> None:
    out = tmp_path / "demo"
    told = run("demo", "--out", out, "--json")
    assert told.code == 0, told.err
    names = [row["name"] for row in told.json["rows"]]
    assert names == ["dense bf16", "int8", "sparse50-fast"]
    rows = [line for line in told.err.splitlines() if "perplexity" in line and "tokens/s" in line]
    assert [row.partition(":")[0] for row in rows] == names
    assert told.err.index(rows[0]) < told.err.index("int8: blocks"), (
        "the parent's row comes before any compressing"
    )
    assert [answer["name"] for answer in told.json["answers"]] == names[1:]
    assert all(answer["tokens_per_s"] > 0 for answer in told.json["answers"])
    assert len(told.json["next_commands"]) == 3
    assert told.json["rows"][0]["perplexity"] == pytest.approx(told.json["rows"][1]["perplexity"], rel=0.1)
    assert (out / "report.html").is_file()
    assert told.json["seconds"] > 0


def test_a_file_in_the_place_of_the_folder_is_refused(run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run("demo", "--out", tmp_path / "file").code == 2
