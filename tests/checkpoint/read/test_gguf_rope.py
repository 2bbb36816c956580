import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gossamer.checkpoint.source import open_model
from gossamer.errors import UnsupportedModelError
from gossamer.runtime.plan import rotary_of
from tests.checkpoint.gguf_files import write_gguf
from tests.models import tiny_model


def frequencies(tmp_path: Path, **keys: Any) -> tuple[np.ndarray, float]:
    """(inverse frequencies, factor of cosine and sine) of both engines, for a model with these keys."""
    scaling = {f"llama.rope.{name}": value for name, value in keys.items()}
    source = open_model(write_gguf(tiny_model("llama"), "llama", tmp_path / "model.gguf", keys=scaling))
    rotary = source.load_dense().model.rotary_emb
    native = rotary_of(source.config)
    np.testing.assert_allclose(rotary.inv_freq.numpy(), native.inverse_frequency, rtol=1e-6)
    assert rotary.attention_scaling == native.scaling
    return rotary.inv_freq.numpy(), native.scaling


def llama_cpp(size: int, base: float, factor: float, original: int) -> tuple[np.ndarray, float]:
    """`rope_yarn` and `ggml_rope_yarn_corr_dims` of ggml, with beta 32 and 1: (angles at position 1, mscale)."""

    def dimension(rotations: float) -> float:
        return size * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(0, math.floor(dimension(32))), min(size - 1, math.ceil(dimension(1)))
    index = np.arange(size // 2)
    ramp = 1 - np.clip((index - low) / max(0.001, high - low), 0, 1)
    plain = base ** (-2.0 * index / size)
    return plain / factor * (1 - ramp) + plain * ramp, 1 + 0.1 * math.log(factor)


def test_yarn_is_that_of_llama_cpp_on_both_engines(tmp_path: Path) -> None:
    size = tiny_model("llama").config.head_dim
    keys = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 64}
    expected, scaling = llama_cpp(size, 10_000.0, 4.0, 64)
    found = frequencies(tmp_path, **keys)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    assert found[1] == pytest.approx(scaling)
    found = frequencies(tmp_path, **keys, **{"scaling.attn_factor": 0.5})
    assert found[1] == pytest.approx(0.5 * scaling)


@pytest.mark.parametrize(
    ("keys", "divisor"),
    [
        ({"scaling.type": "linear", "scaling.factor": 4.0}, 4.0),
        ({"scaling.factor": 4.0}, 4.0),
        ({"scale_linear": 2.0}, 2.0),
        ({"scaling.type": "none", "scaling.factor": 4.0}, 1.0),
        ({"scaling.type": "linear", "scaling.factor": 0.0}, 1.0),
        ({"scaling.type": "yarn", "scaling.factor": 1.0}, 1.0),
    ],
)
def test_positions_are_divided_as_llama_cpp_does(
    keys: dict[str, Any], divisor: float, tmp_path: Path
) -> None:
    plain, _ = frequencies(tmp_path)
    found, scaling = frequencies(tmp_path, **keys)
    np.testing.assert_allclose(found, plain / divisor, rtol=1e-6)
    assert scaling == 1.0


def test_the_base_of_the_frequencies_is_the_files_and_else_ten_thousand(tmp_path: Path) -> None:
    default, _ = frequencies(tmp_path, freq_base=None)
    other, _ = frequencies(tmp_path, freq_base=500_000.0)
    index = np.arange(len(default))
    np.testing.assert_allclose(default, 10_000.0 ** (-index / len(index)), rtol=1e-5)
    np.testing.assert_allclose(other, 500_000.0 ** (-index / len(index)), rtol=1e-5)


@pytest.mark.parametrize(
    "keys", [{"scaling.type": "longrope"}, {"scaling.factor": 2.0, "scaling.attn_factor": 1.2}]
)
def test_scaling_that_cannot_be_told_is_refused(keys: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"llama\.rope\.scaling"):
        frequencies(tmp_path, **keys)


def test_llama3_frequencies_are_recognised(tmp_path: Path) -> None:
    settings = {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    # heads wide enough that some wavelengths exceed the original length
    model = tiny_model("llama", rope_parameters=settings)
    wide = LlamaConfig(head_dim=16, rope_parameters=settings)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](wide, "cpu")
    plain = 1.0 / 10_000.0 ** (torch.arange(0, 16, 2) / 16)
    factors = (plain / scaled).numpy().astype(np.float32)
    assert factors.max() > 1.0
    path = write_gguf(model, "llama", tmp_path / "model.gguf", extra={"rope_freqs.weight": factors})
    source = open_model(path)
    assert source.config.rope_parameters["rope_type"] == "llama3"
    both = {"llama.rope.scaling.factor": 2.0}
    other = write_gguf(
        model, "llama", tmp_path / "both.gguf", extra={"rope_freqs.weight": factors}, keys=both
    )
    with pytest.raises(UnsupportedModelError, match="got both"):
        open_model(other)
    torch.testing.assert_close(source.load_dense().model.rotary_emb.inv_freq, scaled, rtol=1e-4, atol=0)


def test_other_frequencies_are_refused(tmp_path: Path) -> None:
    factors = np.linspace(1, 3, 8).astype(np.float32)
    extra = {"rope_freqs.weight": factors}
    path = write_gguf(tiny_model("llama"), "llama", tmp_path / "model.gguf", extra=extra)
    with pytest.raises(UnsupportedModelError, match="rope_freqs"):
        open_model(path)


def test_frequencies_of_an_architecture_that_has_none_are_refused(tmp_path: Path) -> None:
    extra = {"rope_freqs.weight": np.full(8, 2.0, np.float32)}
    path = write_gguf(tiny_model("qwen3"), "qwen3", tmp_path / "model.gguf", extra=extra)
    with pytest.raises(UnsupportedModelError, match="rope_freqs"):
        open_model(path)
