from pathlib import Path

import gguf
import pytest
import torch

from gossamer.checkpoint.source import open_model
from gossamer.checkpoint.write.export import export
from gossamer.compression.compress import compress
from gossamer.errors import UsageError
from gossamer.recipe.reader import parse_recipe
from gossamer.runtime.weights import open_weights
from tests.checkpoint.gguf_files import write_gguf
from tests.models import save_tiny, tiny_model
from tests.runtime.engines import exact, text_ids


@pytest.fixture
def beyond_float16(tmp_path: Path) -> Path:
    """A model in bfloat16 with numbers beyond float16, and others below it that make up for them."""
    model = tiny_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight.mul_(2.0**24)
            layer.mlp.down_proj.weight.mul_(2.0**-24)
    return write_gguf(model, "llama", tmp_path / "model.gguf", kind=gguf.GGMLQuantizationType.BF16)


def test_numbers_that_float16_cannot_hold_are_kept(beyond_float16: Path) -> None:
    ids_T = text_ids()
    with torch.inference_mode():
        expected = open_model(beyond_float16).load_dense()(input_ids=ids_T[None]).logits[0]
    found = exact(beyond_float16).logits(ids_T)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * float(expected.abs().max()))


def test_matrices_that_two_bytes_hold_take_two_bytes(tmp_path: Path) -> None:
    weights = open_weights(write_gguf(tiny_model("llama"), "llama", tmp_path / "model.gguf"))
    assert weights._tensor("model.layers.0.mlp.up_proj.weight").dtype in (torch.float16, torch.bfloat16)


def test_an_export_says_which_numbers_do_not_fit(beyond_float16: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"up_proj.*bfloat16 or float32"):
        export(beyond_float16, tmp_path / "out", dtype="float16")
    export(beyond_float16, tmp_path / "out", dtype="bfloat16")


def test_an_expanded_bitmask_gives_the_same_logits_and_takes_more_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny("llama", tmp_path / "dense")
    recipe = """
steps:
  - {layers: "*", method: magnitude, sparsity: 0.5}
  - {layers: "*", method: rtn, bits: 4, group_size: 32}
"""
    compress(tmp_path / "dense", parse_recipe(recipe, where="test"), out=tmp_path / "small")
    engines = []
    for choice in ("0", "1"):
        monkeypatch.setenv("GOSSAMER_EXPAND", choice)
        engines.append(exact(tmp_path / "small", activations="int8"))
    packed, expanded = engines
    assert torch.equal(packed.logits(text_ids()), expanded.logits(text_ids()))
    assert packed.weight_bytes_per_token < expanded.weight_bytes_per_token
    assert packed.notes == ()
    assert expanded.notes[0].startswith("14 bitmasks of int4 are multiplied as dense integers")
