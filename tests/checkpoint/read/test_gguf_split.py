import shutil
from pathlib import Path

import pytest
import torch

from gossamer.checkpoint.source import open_model
from gossamer.errors import CheckpointError
from gossamer.runtime.weights import open_weights
from tests.checkpoint.gguf_files import write_gguf
from tests.models import tiny_model


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    write_gguf(tiny_model("llama"), "llama", tmp_path / "model.gguf", tensors_in_part=8)
    found = sorted(tmp_path.glob("*.gguf"))
    assert len(found) == 3
    return found


def test_a_split_model_is_read_from_any_part_and_from_its_folder(parts: list[Path]) -> None:
    expected = dict(tiny_model("llama").named_parameters())
    for path in (*parts, parts[0].parent):
        source = open_model(path)
        assert source.reader.weight_files == tuple(parts)
        assert source.size_bytes == sum(part.stat().st_size for part in parts)
        for name, parameter in source.load_dense().named_parameters():
            torch.testing.assert_close(parameter, expected[name], rtol=0, atol=0)
        assert source.tokenizer() is not None
    assert open_model(parts[0]).fingerprint() == open_model(parts[2]).fingerprint()
    assert open_weights(parts[0].parent).has("model.layers.0.mlp.up_proj")


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.gguf: expected part 2 of 3"):
        open_model(parts[2])
    parts[0].unlink()
    with pytest.raises(CheckpointError, match=r"model-00001-of-00003\.gguf: expected part 1 of 3"):
        open_model(parts[0].parent)


def test_a_part_under_another_name_is_answered_with_what_to_do(parts: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "renamed.gguf"
    shutil.copy(parts[0], other)
    with pytest.raises(CheckpointError, match="llama-gguf-split --merge"):
        open_model(other)


def test_parts_in_the_wrong_order_or_of_other_models_are_refused(parts: list[Path], tmp_path: Path) -> None:
    third = parts[2].read_bytes()
    shutil.copy(parts[1], parts[2])
    with pytest.raises(CheckpointError, match="expected 2 of 3, got 1 of 3"):
        open_model(parts[0])
    parts[2].write_bytes(third)
    write_gguf(tiny_model("llama"), "llama", tmp_path / "other.gguf", tensors_in_part=9)
    shutil.copy(tmp_path / "other-00003-of-00003.gguf", parts[2])
    with pytest.raises(CheckpointError, match=r"again|in all parts"):
        open_model(parts[0])
