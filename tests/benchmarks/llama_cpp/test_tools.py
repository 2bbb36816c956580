"""llama.cpp's tools beside llama-bench."""

from pathlib import Path

import pytest
import torch

from benchmarks.llama_cpp import tools
from benchmarks.llama_cpp.build import Build
from gossamer.errors import RunError
from tests.checkpoint.gguf_files import write_gguf
from tests.models import tiny_model

LINE = '{"n_kv_max": 1024, "pp": 64, "tg": 64, "pl": 8, "t_tg": 2.0, "speed_tg": 256.0, "speed": 300.0}'


def test_the_rate_of_a_batch_is_that_of_its_written_tokens() -> None:
    assert tools.parse_batch(f"\n{LINE}\n\nllama_perf: ...\n") == {"batch": 256.0}


@pytest.mark.parametrize("text", ["", f"{LINE}\n{LINE}", "{}", LINE.replace("256.0", "0")])
def test_an_answer_without_one_rate_is_an_error(text: str) -> None:
    with pytest.raises(RunError, match="llama-batched-bench"):
        tools.parse_batch(text)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    (tmp_path / "bin").mkdir()
    return Build(str(tmp_path), (), ())


def put(build: Build, name: str, script: str) -> None:
    build.tool(name).write_text(script)
    build.tool(name).chmod(0o755)


def test_a_quantized_file_gets_its_name_when_it_is_complete(build: Build, tmp_path: Path) -> None:
    put(build, "llama-quantize", '#!/bin/sh\necho "$4" > "$3"\n')
    tools.quantize(build, Path("parent.gguf"), tmp_path / "Q4_0.gguf", "Q4_0")
    assert (tmp_path / "Q4_0.gguf").read_text() == "Q4_0\n"
    put(build, "llama-quantize", '#!/bin/sh\necho half > "$3"\necho no room >&2\nexit 1\n')
    with pytest.raises(RunError, match="no room"):
        tools.quantize(build, Path("parent.gguf"), tmp_path / "Q8_0.gguf", "Q8_0")
    assert not (tmp_path / "Q8_0.gguf").exists()


ECHO = """#!/usr/bin/env python3
import struct, sys
length = int(sys.argv[2])
while len(data := sys.stdin.buffer.read(4 * length)) == 4 * length:
    for token in struct.unpack(f"{length}i", data):
        sys.stdout.buffer.write(struct.pack(f"{VOCABULARY}f", *[float(token)] * VOCABULARY))
    sys.stdout.buffer.flush()
"""


def test_logits_of_windows_come_one_after_the_other(build: Build, tmp_path: Path) -> None:
    model = tiny_model("llama", intermediate_size=128)
    vocabulary = model.config.vocab_size
    write_gguf(model, "llama", tmp_path / "tiny.gguf")
    put(build, "logits", ECHO.replace("VOCABULARY", str(vocabulary)))
    peer = tools.Logits(build, tmp_path / "tiny.gguf", 3, 1)
    for ids in ([[1, 2, 3]], [[7, 8, 9]]):
        logits_1LV = peer(torch.tensor(ids)).logits
        assert logits_1LV.shape == (1, 3, vocabulary)
        assert logits_1LV[0, :, 5].tolist() == [float(token) for token in ids[0]]
    with pytest.raises(ValueError, match="expected"):
        peer(torch.tensor([[1, 2]]))
    peer.close()


def test_a_process_that_ends_early_is_an_error(build: Build, tmp_path: Path) -> None:
    write_gguf(tiny_model("llama", intermediate_size=128), "llama", tmp_path / "tiny.gguf")
    put(build, "logits", "#!/bin/sh\nread line\nexit 4\n")
    peer = tools.Logits(build, tmp_path / "tiny.gguf", 1, 1)
    with pytest.raises(RunError, match="exit code 4"):
        peer(torch.tensor([[10]]))
    peer.close()
