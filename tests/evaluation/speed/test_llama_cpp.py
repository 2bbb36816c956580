"""llama.cpp through its own benchmark: what is asked of it, and what is read out of its answer."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer.errors import RunError, UsageError
from gossamer.evaluation.speed import llama_cpp
from gossamer.evaluation.speed.bench import benchmark
from gossamer.evaluation.speed.decode import Round
from tests.checkpoint.gguf_files import write_gguf
from tests.models import tiny_model

PREFILL = {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 250.5, "samples_ts": [250.5]}
DECODE = {"n_prompt": 0, "n_gen": 128, "n_depth": 64, "avg_ts": 80.0, "samples_ts": [80.0]}


def test_rates_are_told_apart_by_what_was_asked() -> None:
    assert llama_cpp.parse_bench(json.dumps([PREFILL, DECODE])) == {"prefill": 250.5, "decode": 80.0}


@pytest.mark.parametrize(
    "text", ["", "Segmentation fault", "[]", "{}", '[{"n_prompt": 4}]', json.dumps([{**DECODE, "avg_ts": 0}])]
)
def test_an_answer_without_rates_is_an_error(text: str) -> None:
    with pytest.raises(RunError, match="llama-bench"):
        llama_cpp.parse_bench(text)


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of llama-bench: 100 tokens/s for prompts, 10 for decoding; keeps what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "llama-bench"
    script.write_text(
        '#!/bin/sh\necho "$@" >> "$0.asked"\n'
        'case "$*" in *"-p 0"*) rate=10; prompt=0;; *) rate=100; prompt=1;; esac\n'
        'echo "[{\\"n_prompt\\": $prompt, \\"avg_ts\\": $rate}]"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return script


def test_a_round_is_a_prompt_and_tokens_behind_as_long_a_prompt(tool: Path, gguf: Path) -> None:
    peer = llama_cpp.LlamaBench(gguf, 3)
    assert peer.run_round(torch.zeros(1, 20, dtype=torch.int64), 4) == Round(prefill=0.2, decode=0.4)
    asked = Path(f"{tool}.asked").read_text().splitlines()
    assert asked == [
        f"-m {gguf} -t 3 -p 20 -n 0 -d 0 -r 1 -o json",
        f"-m {gguf} -t 3 -p 0 -n 4 -d 20 -r 1 -o json",
    ]


def test_a_benchmark_has_llama_cpp_as_its_peer_without_load_time_or_memory(tool: Path, gguf: Path) -> None:
    settings: dict[str, Any] = {"threads": 1, "prompt_tokens": 4, "tokens": 2, "repeats": 1}
    told = benchmark(gguf, against=gguf, engine="native", **settings)
    assert told.against is not None
    assert told.ratios is not None
    assert told.against.engine == "llama.cpp"
    assert told.against.prefill_tokens_per_s == pytest.approx(100)
    assert told.against.decode_tokens_per_s == pytest.approx(10)
    assert told.against.weight_bytes_per_token == gguf.stat().st_size
    assert (told.against.load_seconds, told.against.peak_memory_bytes, told.ratios.load) == (None, None, None)


def test_a_tool_that_fails_is_an_error_with_its_last_words(tool: Path, gguf: Path) -> None:
    tool.write_text("#!/bin/sh\necho 'no such model' >&2\nexit 1\n")
    with pytest.raises(RunError, match="exit code 1, no such model"):
        llama_cpp.LlamaBench(gguf, 1).run_round(torch.zeros(1, 4, dtype=torch.int64), 4)


def test_without_the_tool_it_is_said_what_to_do(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="llama-bench on the PATH"):
        llama_cpp.LlamaBench(gguf, 8)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.gguf"
    write_gguf(tiny_model("llama", intermediate_size=128), "llama", file)
    return file
