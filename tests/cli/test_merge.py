"""`gossamer merge` as a user runs it."""

from collections.abc import Callable
from pathlib import Path

from tests.cli.runs import Run, refused
from tests.training.adapters import factors, write_adapter

SHAPES = {f"model.layers.{block}.mlp.{name}_proj": (96, 64) for block in (0, 1) for name in ("up", "gate")}


def test_an_adapter_is_merged_and_what_arrived_is_shown(
    run: Callable[..., Run], folder: Path, parent: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", factors(SHAPES, size=0.01))
    result = run("merge", folder, adapter, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    for words in ("arrived", "dropped", "zeros that stayed", "model.layers.1.mlp.up_proj", "LITTLE ARRIVED"):
        assert words in result.out
    assert "LITTLE ARRIVED" in result.err
    again = run(
        "merge",
        folder,
        adapter,
        "--out",
        tmp_path / "out",
        "--parent",
        parent("llama"),
        "--overwrite",
        "--json",
    )
    assert again.json["total"]["arrived"] > 0.7
    assert again.json["folder"] == str(tmp_path / "out")
    assert run("report", tmp_path / "out", "-o", tmp_path / "page.html").code == 0
    assert run("inspect", tmp_path / "out").code == 0


def test_wrong_use_is_one_short_message(run: Callable[..., Run], folder: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", factors(SHAPES), use_dora=True)
    refused(run("merge", folder, adapter, "--out", tmp_path / "out"), "use_dora", "DoRA")
    refused(run("merge", folder, tmp_path / "none", "--out", tmp_path / "out"), "no such folder")
    refused(run("merge", folder, adapter, "--out", folder), "exists already")
    assert not (tmp_path / "out").exists()
