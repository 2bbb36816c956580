from pathlib import Path
from typing import Any

import pytest
import torch

from gossamer.checkpoint.source import open_model
from gossamer.errors import CheckpointError, UnsupportedModelError
from tests.checkpoint.gguf_files import write_gguf
from tests.models import tiny_inputs, tiny_model

GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 8}


def gemma(tmp_path: Path, keys: dict[str, Any], **changes: Any) -> tuple[Any, Any]:
    """(a tiny Gemma with `changes`, the same as read from a file with `keys`)."""
    model = tiny_model("gemma3", **GEMMA, **changes)
    path = write_gguf(model, "gemma3", tmp_path / "model.gguf", keys=keys)
    return model, open_model(path).load_dense()


def assert_alike(models: tuple[Any, Any]) -> None:
    inputs = tiny_inputs("gemma3")
    with torch.no_grad():
        expected, found = (model(**inputs).logits for model in models)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_layers_that_see_a_window_are_those_that_the_file_names(tmp_path: Path) -> None:
    layers = tiny_model("gemma3", **GEMMA).config.num_hidden_layers
    key = "gemma3.attention.sliding_window_pattern"
    for pattern, first in ((2, True), ([False, True] * layers, False), ([True] * layers, True)):
        models = gemma(tmp_path, {key: pattern})
        found = [kind == "sliding_attention" for kind in models[1].config.layer_types]
        flags = pattern if isinstance(pattern, list) else [i % 2 == 0 for i in range(layers)]
        assert found == flags[:layers] and found[0] == first
    with pytest.raises(CheckpointError, match=key):
        gemma(tmp_path, {key: [True]})


def test_a_gemma_without_a_window_sees_every_position_in_every_layer(tmp_path: Path) -> None:
    layers = tiny_model("gemma3", **GEMMA).config.num_hidden_layers
    for window in (None, 0):
        models = gemma(
            tmp_path, {"gemma3.attention.sliding_window": window}, layer_types=["full_attention"] * layers
        )
        assert set(models[1].config.layer_types) == {"full_attention"}
        assert_alike(models)


def test_the_cap_of_the_logits_is_honoured(tmp_path: Path) -> None:
    assert_alike(gemma(tmp_path, {"gemma3.final_logit_softcapping": 3.0}, final_logit_softcapping=3.0))


def test_local_layers_turn_by_their_own_base(tmp_path: Path) -> None:
    _, found = gemma(tmp_path, {"gemma3.rope.freq_base_swa": 5_000.0})
    assert found.config.rope_parameters["sliding_attention"]["rope_theta"] == 5_000.0
    assert found.config.rope_parameters["full_attention"]["rope_theta"] == 1_000_000.0


def test_local_heads_of_another_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"gemma3\.attention\.key_length_swa"):
        gemma(tmp_path, {"gemma3.attention.key_length_swa": 32})


def test_numbers_for_each_layer_are_read_where_they_are_alike(tmp_path: Path) -> None:
    model = tiny_model("llama")
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    key = "llama.attention.head_count"
    path = write_gguf(model, "llama", tmp_path / "model.gguf", keys={key: [heads] * layers})
    assert open_model(path).config.num_attention_heads == heads
    path = write_gguf(model, "llama", tmp_path / "model.gguf", keys={key: [*range(1, layers + 1)]})
    with pytest.raises(CheckpointError, match=key):
        open_model(path)
