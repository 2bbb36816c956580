from pathlib import Path
from typing import Any

import pytest

from gossamer.checkpoint.source import open_model
from gossamer.errors import UnsupportedModelError
from tests.checkpoint.gguf_files import write_gguf
from tests.models import tiny_model


def write(tmp_path: Path, keys: dict[str, Any], architecture: str = "llama") -> Path:
    return write_gguf(tiny_model(architecture), architecture, tmp_path / "model.gguf", keys=keys)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.attention.causal", False),
        ("llama.attention.scale", 0.5),
        ("llama.attention.sliding_window", 16),
        ("llama.attn_logit_softcapping", 50.0),
        ("llama.final_logit_softcapping", 30.0),
        ("llama.logit_scale", 0.25),
        ("llama.residual_scale", 0.2),
        ("llama.embedding_scale", 12.0),
        ("llama.expert_count", 8),
        ("llama.rope.scaling.yarn_beta_fast", 16.0),
        ("llama.rope.dimension_sections", [16, 24, 24, 0]),
        ("llama.something.new", 0),
        ("tokenizer.ggml.suppress_tokens", [1, 2]),
        ("tokenizer.ggml.something_new", True),
        ("adapter.type", "lora"),
        ("general.type", "mmproj"),
        ("general.tensor_extra.name", ["a"]),
    ],
)
def test_a_key_that_is_not_honoured_is_refused_by_name(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=f"key '{key}'"):
        open_model(write(tmp_path, {key: value}))


def test_keys_without_effect_and_neutral_values_are_accepted(tmp_path: Path) -> None:
    keys = {
        "general.type": "model",
        "general.license": "mit",
        "general.quantization_version": 2,
        "quantize.imatrix.file": "imatrix.dat",
        "somebody.else": 1,
        "tokenizer.chat_template.rag": "{{ x }}",
        "tokenizer.chat_templates": ["rag"],
        "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.token_type_count": 1,
        "llama.vocab_size": 260,
        "llama.attention.causal": True,
        "llama.attention.sliding_window": 0,
        "llama.expert_count": 0,
        "llama.expert_used_count": 0,
        "llama.logit_scale": 1.0,
        "llama.rope.scaling.yarn_ext_factor": -1.0,
    }
    assert open_model(write(tmp_path, keys)).config.model_type == "llama"


def test_sampling_defaults_become_those_of_generation_config(tmp_path: Path) -> None:
    keys = {
        "general.sampling.temp": 0.5,
        "general.sampling.top_k": 20,
        "general.sampling.penalty_repeat": 1.5,
    }
    source = open_model(write(tmp_path, keys))
    expected = {"do_sample": True, "temperature": 0.5, "top_k": 20, "repetition_penalty": 1.5}
    assert source.generation().items() >= expected.items()
    assert source.load_dense().generation_config.to_dict().items() >= expected.items()
