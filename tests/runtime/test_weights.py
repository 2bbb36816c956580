from pathlib import Path

import gguf
import pytest
import torch

from gossamer.checkpoint.source import open_model
from gossamer.checkpoint.write.export import export
from gossamer.errors import UsageError
from gossamer.runtime.weights import open_weights
from tests.checkpoint.gguf_files import write_gguf
from tests.models import tiny_model
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
