"""What a round runs: the same amounts on both sides, and our process gives what it is asked."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import ours, visits
from benchmarks.llama_cpp.build import Build
from benchmarks.visits import Amounts


def option(command: tuple[str, ...], name: str) -> str:
    return command[command.index(name) + 1]


def test_both_sides_get_the_same_amounts_threads_and_level() -> None:
    build = Build("llama", ("-DX=ON",), ())
    folders, files = {"int4": Path("int4")}, {"Q4_0": Path("Q4_0.gguf")}
    bandwidth, own, decode, prefill, batch = visits.visits_of(folders, files, "avx2", build, 2, Amounts())
    assert (bandwidth.name, own.name, decode.name, prefill.name, batch.name) == (
        "bandwidth", "int4", "Q4_0", "Q4_0", "Q4_0",
    )  # fmt: skip
    assert own.environment == (("GOSSAMER_ISA", "avx2"),)
    assert option(own.command, "--prompt") == option(prefill.command, "-p") == "512"
    assert option(own.command, "--tokens") == option(decode.command, "-n") == "128"
    assert (
        option(own.command, "--depth")
        == option(decode.command, "-d")
        == option(batch.command, "-npp")
        == "64"
    )
    assert option(own.command, "--batch") == option(batch.command, "-npl") == "8"
    assert option(own.command, "--batch-tokens") == option(batch.command, "-ntg") == "64"
    threads = [option(each.command, "-t") for each in (decode, prefill, batch)]
    assert [option(own.command, "--threads"), *threads] == ["2"] * 4


def test_the_best_level_is_left_to_the_engine_and_figures_of_no_tokens_are_left_out() -> None:
    amounts = Amounts(prompt=0, batch=0, batch_tokens=0)
    build = Build("llama", (), ())
    found = visits.visits_of({"int4": Path("int4")}, {"Q4_0": Path("x.gguf")}, "best", build, 1, amounts)
    assert [each.name for each in found] == ["bandwidth", "int4", "Q4_0"]
    assert found[1].environment == ()


def test_what_the_figures_depend_on_has_another_identity(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"one")
    build = Build("llama", (), ())
    taken = visits.visits_of({}, {"Q4_0": model}, "best", build, 1, Amounts())
    first = visits.identity(taken, [model])
    assert first == visits.identity(taken, [model])
    model.write_bytes(b"three")
    assert first != visits.identity(taken, [model])
    more = visits.visits_of({}, {"Q4_0": model}, "best", build, 2, Amounts())
    assert visits.identity(taken, [model]) != visits.identity(more, [model])


def test_our_process_gives_every_figure_that_it_is_asked_for(
    compressed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(compressed("llama").folder)
    asked = ["--prompt", "20", "--tokens", "4", "--depth", "5", "--batch", "3", "--batch-tokens", "2"]
    monkeypatch.setattr(sys, "argv", ["ours", folder, *asked])
    ours.main()
    figures = visits.parse_ours(capsys.readouterr().out)
    assert figures.keys() == {"weight_bytes_per_token", "isa", "prefill", "decode", "batch"}
    monkeypatch.setattr(sys, "argv", ["ours", folder, "--tokens", "4"])
    ours.main()
    assert json.loads(capsys.readouterr().out).keys() == {"weight_bytes_per_token", "isa", "decode"}
