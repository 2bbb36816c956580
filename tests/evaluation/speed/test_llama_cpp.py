"""llama.cpp measured by our protocol: the same windows, the same arithmetic after the logits."""

from pathlib import Path

import pytest
import torch

from gossamer.data.tokens import Windows
from gossamer.evaluation.quality.perplexity import perplexity
from gossamer.evaluation.speed import llama_cpp
from gossamer.evaluation.speed.llama_cpp import LlamaCppLogits
from tests.checkpoint.gguf_files import write_gguf
from tests.models import tiny_model

LENGTH = 32


@pytest.mark.skipif(llama_cpp.llama_cpp() is None, reason="llama-cpp-python is not installed")
def test_the_perplexity_through_llama_cpp_is_that_of_the_same_model_in_transformers(tmp_path: Path) -> None:
    model = tiny_model("llama", intermediate_size=128)
    write_gguf(model, "llama", tmp_path / "tiny.gguf")
    ids_NL = torch.randint(0, 256, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    cut = Windows(ids_NL, torch.ones_like(ids_NL), LENGTH, "random")
    peer = LlamaCppLogits(tmp_path / "tiny.gguf", LENGTH, 1)
    found, expected = perplexity(peer, cut), perplexity(model, cut)
    peer.close()
    assert found.perplexity == pytest.approx(expected.perplexity, rel=2e-3)  # its cache is float16
    assert found.signature == expected.signature.replace("dtype:f32", "dtype:llama.cpp")


def test_without_llama_cpp_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "llama_cpp", lambda: None)
    with pytest.raises(Exception, match=r"pip install 'gossamer\[bench\]'"):
        LlamaCppLogits("x.gguf", 8, 1)
