"""The command that continues a prompt: what it prints, what it says on stderr, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.runs import Run, refused
from tests.models import save_tiny


def test_generate_streams_text_or_prints_json(run: Callable[..., Run], compressed) -> None:
    arguments = ("generate", compressed("llama").folder, "The spider", "--max-tokens", 6)
    plain, told = run(*arguments), run(*arguments, "--json").json
    assert plain.code == 0
    assert plain.out == told["text"] + "\n"
    assert told["prompt"] == "The spider"
    sampled = (*arguments, "--temperature", 1.5, "--seed", 4, "--top-k", 50, "--top-p", 0.9, "--json")
    assert run(*sampled).json == run(*sampled).json


def test_generate_says_on_stderr_what_is_not_as_the_model_says(
    run: Callable[..., Run], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOSSAMER_EXPAND", "0")  # nothing else to note, on any CPU
    (folder / "generation_config.json").write_text('{"num_beams": 4, "eos_token_id": 258}')
    result = run("generate", folder, "x" * 250)
    assert result.code == 0
    assert "not honoured: num_beams 4." in result.err
    assert "at most 6 new tokens, not 128: the model has 256 positions." in result.err
    assert run("generate", folder, "x", "--max-tokens", 2, "--json").json["notes"] == [
        "generation_config.json: not honoured: num_beams 4."
    ]


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_generate_ends_with_2_when_the_logits_are_not_numbers(
    engine: str, run: Callable[..., Run], tmp_path: Path
) -> None:
    model = save_tiny("llama", tmp_path / "model")
    model.lm_head.weight.data[3] = float("nan")
    model.save_pretrained(tmp_path / "model")
    result = run("generate", tmp_path / "model", "x", "--engine", engine)
    assert (result.code, result.out) == (2, "")
    assert "NaN or infinite" in result.err
    refused(
        run("bench", tmp_path / "model", "--tokens", 2, "--repeats", 1, "--engine", engine), "NaN or infinit"
    )


def test_generate_names_a_template_that_cannot_be_used_and_raw_goes_around_it(
    run: Callable[..., Run], folder: Path
) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('Roles must alternate') }}")
    refused(run("generate", folder, "x"), "chat template", "Roles must alternate", "--raw")
    assert run("generate", folder, "x", "--raw", "--max-tokens", 2).code == 0
