"""Exported folders are ordinary ones: any tool loads them, with zeros where they belong and equal outputs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import gossamer
from gossamer.errors import UsageError
from gossamer.recipe.reader import parse_recipe
from tests.conftest import Case, read_tensors
from tests.models import KINDS, tiny_inputs

PLAIN = """
import sys, torch, transformers
torch.set_num_threads(1)
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert not any(name.startswith("gossamer") for name in sys.modules)
with torch.inference_mode():
    logits = model(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])).logits
torch.save({"logits": logits, "state": model.state_dict(), "linear": type(model.lm_head).__name__}, sys.argv[2])
"""


def test_plain_transformers_loads_it_in_a_process_that_knows_nothing_of_gossamer(
    compressed, tmp_path: Path
) -> None:
    case = compressed("llama")
    gossamer.export(case.folder, tmp_path / "plain")
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        PLAIN,
        str(tmp_path / "plain"),
        str(tmp_path / "result.pt"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    result = torch.load(tmp_path / "result.pt")
    assert result["linear"] == "Linear"
    with torch.inference_mode():
        expected = gossamer.load(case.folder).model(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])).logits
    torch.testing.assert_close(result["logits"], expected, atol=1e-3, rtol=1e-3)
    for name, packed in case.packed().items():
        assert torch.equal(result["state"][f"{name}.weight"], packed.unpack())


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_is_exported_with_equal_outputs(
    kind: str, compressed: Callable[[str], Case], tmp_path: Path
) -> None:
    case = compressed(kind)
    out = gossamer.export(case.folder, tmp_path / "plain")
    model_class = getattr(transformers, json.loads((out / "config.json").read_text())["architectures"][0])
    plain, info = model_class.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.inference_mode():
        expected = gossamer.load(case.folder).model(**tiny_inputs(kind)).logits
        got = plain(**tiny_inputs(kind)).logits
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert not (out / "gossamer.json").exists()
    record = json.loads((out / "sparsity.json").read_text())
    assert record["parent"] == case.manifest["parent"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_on_the_way_keeps_the_zeros(dtype: str, compressed, tmp_path: Path) -> None:
    case = compressed("gpt2")
    out = gossamer.export(case.folder, tmp_path / "plain", dtype=dtype)
    tensors = read_tensors(out)
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {
        getattr(torch, dtype)
    }
    for name, packed in case.packed().items():
        weight = tensors[f"{name}.weight"]
        mask_OI = packed.mask()
        stored_OI = weight.T if ".h." in name else weight
        assert bool((stored_OI[~mask_OI] == 0).all())
        assert torch.equal(stored_OI, packed.unpack().to(weight.dtype))


def test_an_exported_model_can_be_compressed_again(compressed, tmp_path: Path) -> None:
    out = gossamer.export(compressed("llama").folder, tmp_path / "plain")
    summary = gossamer.inspect(out)
    assert summary.sparsity == pytest.approx(0.5, abs=0.02)
    recipe = parse_recipe("steps: [{method: rtn, bits: 8, group_size: null}]")
    assert gossamer.compress(out, recipe, out=tmp_path / "again").folder.is_dir()


def test_a_dense_model_is_exported_too(parent, tmp_path: Path) -> None:
    out = gossamer.export(parent("llama"), tmp_path / "plain")
    before, after = read_tensors(parent("llama")), read_tensors(out)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_cannot_be_exported_is_refused_before_anything_is_written(compressed, tmp_path: Path) -> None:
    folder = compressed("llama").folder
    for settings in ({"format": "gguf"}, {"dtype": "int8"}):
        with pytest.raises(UsageError, match="expected"):
            gossamer.export(folder, tmp_path / "plain", **settings)
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists"):
        gossamer.export(folder, tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
