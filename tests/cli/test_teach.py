"""`gossamer teach`: what it prints where, how it is interrupted, and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gossamer.training.lessons import teach as teaching
from gossamer.training.lessons.reading import Lessons
from tests.cli.runs import Run, refused

SMALL = ("--length", 32, "--windows", 6)
TOLD = {
    "folder", "teachers", "engines", "kind", "count", "vocabulary", "windows", "length", "tokens", "bytes_per_token",
    "size_bytes", "notes", "seconds", "tokens_per_s", "resumed_windows",
}  # fmt: skip


def test_it_prints_a_table_or_json_and_its_pace(
    run: Callable[..., Run], parent, text: Path, tmp_path: Path
) -> None:
    command = ("teach", parent("llama"), "--text", text, "--text", text)
    shown = run(*command, "-o", tmp_path / "a", *SMALL, "--with", parent("llama"))
    assert shown.code == 0, shown.err
    assert f"wrote {tmp_path / 'a'}" in shown.out
    assert "mean of teachers" in shown.out
    assert "the 50 likeliest tokens, and the rest, of 260" in shown.out
    assert "tokens/s, 0 s left" in shown.err
    told = run(*command, "-o", tmp_path / "b", *SMALL, "--samples", 7, "--engine", "torch", "--json").json
    assert set(told) == TOLD
    assert (told["kind"], told["count"], told["engines"], told["tokens"]) == ("samples", 7, ["torch"], 192)
    assert told["tokens_per_s"] > 0
    assert len(Lessons(tmp_path / "b")) == 6


def test_a_dry_run_tells_bytes_and_writes_nothing(
    run: Callable[..., Run], parent, text: Path, tmp_path: Path
) -> None:
    command = ("teach", parent("opt"), "--text", text, "-o", tmp_path / "out", *SMALL, "--dry-run")
    told = run(*command, "--json").json
    assert set(told) == TOLD - {"folder", "seconds", "tokens_per_s", "resumed_windows"}
    assert told["size_bytes"] == told["bytes_per_token"] * 192
    shown = run(*command)
    assert f"{told['size_bytes']:,} bytes" in shown.out
    assert "runs with torch" in shown.out
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_tells_that_it_goes_on_and_does(
    run: Callable[..., Run], parent, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> Any:
        yield from list(real(*arguments))[: 2 if arguments[2] == 0 else 1]
        if arguments[2]:
            raise KeyboardInterrupt

    real = teaching._lessons
    monkeypatch.setattr(teaching, "SHARD_TOKENS", 64)
    command = ("teach", parent("llama"), "--text", text, "-o", tmp_path / "out", *SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(teaching, "_lessons", interrupted)
        stopped = run(*command)
    assert (stopped.code, stopped.out) == (130, "")
    assert "gossamer: interrupted\n2 of 6 windows are kept in" in stopped.err
    refused(run(*command, "--seed", 1), "seed was 0 and is now 1")
    assert run(*command, "--json").json["resumed_windows"] == 2
    refused(run(*command), "finished lessons already")


@pytest.mark.parametrize(
    ("settings", "words"),
    [(("--k", 261), "260"), (("--k", 5, "--samples", 5), "both"), (("--length", 9999), "256"),
     (("--seed", -1), "--seed"), (("--engine", "steam"), "steam"), (("--with", "/nowhere"), "no such path")],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(
    settings: tuple[object, ...], words: str, run: Callable[..., Run], parent, text: Path, tmp_path: Path
) -> None:
    command = ("teach", parent("llama"), "--text", text, "-o", tmp_path / "out")
    refused(run(*command, *settings), words)
    assert list(tmp_path.iterdir()) == []


def test_encoders_and_short_texts_are_refused(
    run: Callable[..., Run], parent, text: Path, tmp_path: Path
) -> None:
    refused(run("teach", parent("bert"), "--text", text, "-o", tmp_path / "out"), "causal language model")
    (tmp_path / "short.txt").write_text("Too short.")
    refused(
        run("teach", parent("llama"), "--text", tmp_path / "short.txt", "-o", tmp_path / "out"), "256 tokens"
    )
    refused(
        run("teach", parent("llama"), "--text", tmp_path / "none.txt", "-o", tmp_path / "out"), "no such file"
    )
    assert not (tmp_path / "out").exists()
