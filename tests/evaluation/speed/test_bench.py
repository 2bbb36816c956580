"""The speed of models given by their paths."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer.errors import CheckpointError, UsageError
from gossamer.evaluation.speed import compare as speed
from gossamer.evaluation.speed import runners
from gossamer.evaluation.speed.bench import benchmark
from gossamer.evaluation.speed.load_probe import LoadFigures
from tests.models import tiny_model

FAST: dict[str, Any] = {"threads": 1, "prompt_tokens": 4, "tokens": 2, "repeats": 1}


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, str, str]]:
    """Takes the place of the processes that load a model; keeps what they were asked."""
    asked: list[tuple[str | None, str, str]] = []

    def probe(subject: speed.Subject, _threads: int, _prompt: int) -> LoadFigures:
        asked.append((subject.path, subject.dtype, subject.activations))
        return LoadFigures(load_seconds=1.0, peak_memory_bytes=100)

    monkeypatch.setattr(speed, "probe_load", probe)
    return asked


def test_dense_models_run_in_bfloat16_and_compressed_ones_as_they_load(
    compressed, probes: list[tuple[str | None, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[torch.dtype] = []
    real = runners.load

    def noting(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        loaded.append(result.model.dtype)
        return result

    monkeypatch.setattr(runners, "load", noting)
    case = compressed("llama")
    told = benchmark(
        case.folder, against=case.parent, activations="int8", engine="torch", **FAST, peer="torch"
    )
    assert loaded == [torch.float32, torch.bfloat16]
    assert set(probes) == {(str(case.folder), "auto", "int8"), (str(case.parent), "bfloat16", "int8")}
    assert told.own.model == str(case.folder)
    assert told.against.model == str(case.parent)
    assert told.own.weight_bytes_per_token < told.against.weight_bytes_per_token
    json.dumps(told.to_dict(), allow_nan=False)


def test_a_prompt_is_read_by_the_models_own_tokenizer(compressed, probes: list[Any]) -> None:
    told = benchmark(compressed("gpt2").folder, prompt="seven b", **FAST)
    assert told.own.prompt_tokens == 7
    assert told.against is None
    assert told.ratios is None
    assert told.to_dict()["ratios"] == {}


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_encoders_and_encoder_decoders_are_measured_too(kind: str, compressed, probes: list[Any]) -> None:
    told = benchmark(compressed(kind).folder, **FAST)
    assert told.own.prefill_tokens_per_s > 0
    assert (told.own.decode_tokens_per_s is None) == (kind == "bert")


def test_what_cannot_be_measured_is_refused(parent, tmp_path: Path, probes: list[Any]) -> None:
    for settings in ({"repeats": 0}, {"tokens": 0}, {"threads": 0}, {"prompt": ""}, {"prompt": "x" * 300}):
        with pytest.raises(UsageError):
            benchmark(parent("llama"), **{**FAST, **settings})
    with pytest.raises(UsageError, match="does not take text"):
        benchmark(parent("whisper"), **FAST)
    with pytest.raises(CheckpointError):
        benchmark(tmp_path / "none", **FAST)
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="tokenizer"):
        benchmark(tmp_path, prompt="words", **FAST)


def test_the_native_engine_is_measured_beside_torch_and_says_so(
    compressed, probes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOSSAMER_EXPAND", "0")  # torch multiplies bitmasks packed
    case = compressed("llama")
    told = benchmark(case.folder, against=case.parent, **FAST)
    assert (told.own.engine, told.own.activations) == ("native", "int8")
    assert (told.against.engine, told.against.activations) == ("torch", "float")
    assert told.ratios.decode.ratio > 0
    torch_told = benchmark(case.folder, engine="torch", **FAST)
    # norms and biases count in torch
    assert told.own.weight_bytes_per_token == pytest.approx(
        torch_told.own.weight_bytes_per_token, rel=0.1
    )  # norms and biases count there
    with pytest.raises(UsageError, match="engine"):
        benchmark(case.folder, engine="fast", **FAST)


def test_llama_cpp_is_the_peer_of_gguf_files_where_its_own_benchmark_is_installed(
    parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "find_tool", lambda: None)
    assert runners.peer_for("model.gguf", "auto") == "torch"
    monkeypatch.setattr(runners, "find_tool", lambda: "/bin/llama-bench")
    assert runners.peer_for("model.gguf", "auto") == "llama.cpp"
    assert runners.peer_for(parent("llama"), "auto") == "torch"
    assert runners.peer_for(parent("llama"), "native") == "native"


def test_a_peer_without_another_model_is_refused(parent) -> None:
    with pytest.raises(UsageError, match="--against"):
        benchmark(parent("llama"), peer="llama.cpp", **FAST)
