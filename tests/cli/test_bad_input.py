"""What the command line says about bad input: exit code 2, one short message, nothing written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gossamer.errors import RunError
from gossamer.evaluation import evaluate
from tests.cli.runs import Run, refused


@pytest.mark.parametrize("command", ["inspect", "bench", "generate", "evaluate", "export", "rotate"])
def test_a_truncated_compressed_folder_is_refused_by_every_command(
    command: str, run: Callable[..., Run], folder: Path, text: Path, tmp_path: Path
) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    to = ("-o", tmp_path / "plain")
    more = {"generate": ("x",), "evaluate": ("--text", text), "export": to, "rotate": to}
    refused(run(command, folder, *more.get(command, ())), "model.safetensors")
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": 7}'])
def test_a_garbled_manifest_is_refused_before_any_work(
    content: str, run: Callable[..., Run], folder: Path, text: Path, tmp_path: Path
) -> None:
    (folder / "gossamer.json").write_text(content)
    result = run("evaluate", folder, "--text", text)
    refused(result, "gossamer.json")
    assert "perplexity" not in result.err
    refused(run("generate", folder, "x"), "gossamer.json")
    refused(run("report", folder, "-o", tmp_path / "r.html"), "gossamer.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modules": {"model.layers.0.mlp.up_proj": {"format": "zip", "shape": [96, 64]}}}, "zip"),
        ({"modules": []}, "modules"),
        ({"format_version": 99}, "99"),
    ],
)
def test_a_configuration_that_lies_is_refused(
    change: dict[str, Any], words: str, run: Callable[..., Run], folder: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    refused(run("generate", folder, "x"), words)
    result = run("inspect", folder)
    assert result.code in (0, 2)
    assert "a defect" not in result.err


@pytest.mark.parametrize("command", ["compress", "evaluate"])
@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), (b"", "text"), (b" \n ", "text"), (b"\xff\xfe\x80" * 40, "UTF-8")],
)
def test_text_that_cannot_be_used_is_refused(
    command: str, content: bytes | None, words: str, run: Callable[..., Run], parent, tmp_path: Path
) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    more = ("--recipe", "sparse50", "--out", tmp_path / "out") if command == "compress" else ()
    refused(run(command, parent("llama"), "--text", path, *more), words)
    assert not (tmp_path / "out").exists()


def test_targets_and_settings_that_cannot_be_meant_are_refused(
    run: Callable[..., Run], parent, text: Path, recipe: Path, tmp_path: Path
) -> None:
    model = parent("llama")
    to = ("compress", model, "--recipe", recipe)
    refused(run(*to, "--out", tmp_path / "none" / "out"), "does not exist")
    refused(run(*to, "--out", tmp_path), "exists already")
    refused(run(*to, "--out", tmp_path, "--overwrite"), "not a model folder")
    refused(run(*to, "--out", "x" * 300))
    refused(run(*to, "--out", tmp_path / "out", "--samples", 0), "--samples")
    refused(
        run("compress", model, "--recipe", "sparse51", "--out", tmp_path / "out"), "Did you mean 'sparse50'"
    )
    refused(run("compress", tmp_path / "none", "--recipe", recipe, "--out", tmp_path / "out"), "no such path")
    refused(run("evaluate", model, "--text", text, "--length", 1), "length")
    refused(run("evaluate", model, "--text", text, "--length", 0), "length")
    refused(run("evaluate", model, "--text", text, "--length", 9999), "256 tokens")
    refused(run("evaluate", model, "--text", text, "--windows", 0), "window")
    refused(run("evaluate", model, "--text", text, "--stride", 0, "--length", 32), "stride")
    refused(run("evaluate", model, "--text", text, "--activations", "int4"), "int4")
    refused(run("bench", model, "--repeats", 0), "repeats")
    refused(run("bench", model, "--threads", 0), "thread")
    refused(run("bench", model, "--tokens", 0), "token")
    refused(run("bench", model, "--prompt", ""), "prompt")
    refused(run("generate", model, ""), "empty")
    refused(run("generate", model, "x", "--max-tokens", 100000), "256 positions")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.yaml"]


def test_a_recipe_error_names_file_line_and_key(
    run: Callable[..., Run], parent, recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text("steps:\n  - layers: '*'\n    method: wanda\n    sparsty: 0.5\n")
    result = run("compress", parent("llama"), "--recipe", recipe, "--out", tmp_path / "out")
    refused(result, "half.yaml, line 4", "'sparsty'", "Did you mean 'sparsity'?")


def test_one_short_message_for_an_error_of_the_run(
    run: Callable[..., Run], parent, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(evaluate, "perplexity", broken)
    refused(
        run("evaluate", parent("llama"), "--text", text, "--length", 32, "--windows", 1), "the disk is full"
    )


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_device_that_is_not_there_is_refused(
    more: tuple[str, ...], run: Callable[..., Run], folder: Path, tmp_path: Path
) -> None:
    command = ("compress", folder, "--recipe", "sparse50", "-o", tmp_path / "out", "--device", "abacus")
    refused(run(*command, *more), "--device abacus: cannot be used here")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [-1, 10**24])
def test_a_seed_that_cannot_be_had_is_refused(
    seed: int, run: Callable[..., Run], parent, tmp_path: Path
) -> None:
    model, to = parent("llama"), ("--out", tmp_path / "out")
    refused(run("compress", model, "--recipe", "int8", *to, "--seed", seed), "--seed")
    refused(run("generate", model, "x", "--seed", seed), "--seed")
    refused(run("rotate", model, *to, "--seed", seed), "--seed")
    assert not (tmp_path / "out").exists()


def test_settings_without_a_meaning_are_refused_before_any_work(
    run: Callable[..., Run], parent, text: Path, tmp_path: Path
) -> None:
    model = parent("llama")
    refused(run("compress", model, "--recipe", "int8", "--out", tmp_path / "out", "--layers", ""), "--layers")
    refused(run("evaluate", model, "--text", text, "--against", model, "--max-ratio", "nan"), "--max-ratio")
    refused(run("bench", model, "--prompt-tokens", -1), "--prompt-tokens")
    refused(run("generate", model, "\udcff"), "UTF-8")
    assert not (tmp_path / "out").exists()
