"""Folders that lie about sizes, offsets and indices are refused when they are opened, with an error of ours."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gossamer.errors import CheckpointError, GossamerError, UsageError
from gossamer.runtime.engine import Engine
from tests.runtime.engines import text_ids

DECLARATIONS: list[dict[str, Any]] = [
    {"shape": [2**40, 64]}, {"shape": [-1, 64]}, {"shape": [64]}, {"shape": "64"}, {"shape": [64.0, 64]},
    {"bits": 9}, {"bits": -4}, {"bits": "4"}, {"bits": 7}, {"group_size": 0}, {"group_size": 48}, {"group_size": -32},
    {"format": "other"}, {"format": ["integer"]}, {"format": None}, {"symmetric": False}, {"symmetric": "no"},
]  # fmt: skip
CONFIGURATIONS: list[dict[str, Any]] = [
    {"num_hidden_layers": -1}, {"num_hidden_layers": 0}, {"head_dim": -16}, {"head_dim": 10**9},
    {"num_attention_heads": 0}, {"num_key_value_heads": 0}, {"num_key_value_heads": 3}, {"hidden_size": 0},
    {"hidden_size": 2**40}, {"vocab_size": 0}, {"vocab_size": -5}, {"max_position_embeddings": 0},
    {"max_position_embeddings": 10**15}, {"rms_norm_eps": math.nan}, {"rms_norm_eps": -1.0}, {"rms_norm_eps": "small"},
    {"intermediate_size": -1}, {"hidden_act": "other"},
]  # fmt: skip


@pytest.fixture
def folder(compressed, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(compressed("llama").folder, copy)
    return copy


def change(folder: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    how(config)
    path.write_text(json.dumps(config))


def packed_names(folder: Path, kind: str) -> list[str]:
    modules = json.loads((folder / "config.json").read_text())["quantization_config"]["modules"]
    return [name for name, meta in modules.items() if meta["format"] == kind]


@pytest.mark.parametrize("kind", ["bitmask", "integer"])
@pytest.mark.parametrize("changes", DECLARATIONS, ids=str)
def test_declarations_that_lie_are_refused(folder: Path, kind: str, changes: dict[str, Any]) -> None:
    name = packed_names(folder, kind)[0]
    change(folder, lambda config: config["quantization_config"]["modules"][name].update(changes))
    with pytest.raises(CheckpointError):
        Engine.open(folder)


@pytest.mark.parametrize("number", [-1, 0, 7, 2**62, 2**70, "many", None])
def test_a_number_of_values_that_lies_is_refused(folder: Path, number: Any) -> None:
    name = packed_names(folder, "bitmask")[0]
    change(folder, lambda config: config["quantization_config"]["modules"][name].update(num_values=number))
    with pytest.raises(CheckpointError):
        Engine.open(folder)


@pytest.mark.parametrize(
    "settings",
    [{"tied": {"lm_head": "nowhere"}}, {"tied": {"lm_head": 3}}, {"tied": []}, {"modules": []},
     {"modules": {"lm_head": 1}}, {"format_version": 99}],
    ids=str,
)  # fmt: skip
def test_tables_that_lie_are_refused(folder: Path, settings: dict[str, Any]) -> None:
    change(folder, lambda config: config["quantization_config"].update(settings))
    with pytest.raises(CheckpointError):
        Engine.open(folder)


@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=str)
def test_configurations_that_cannot_be_meant_are_refused(folder: Path, changes: dict[str, Any]) -> None:
    change(folder, lambda config: config.update(changes))
    with pytest.raises(GossamerError):
        Engine.open(folder, cache_tokens=64)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_refused(folder: Path, share: float) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError):
        Engine.open(folder)


def test_every_tensor_that_is_missing_short_or_of_another_type_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    names = [name for name in tensors if ".layers.0." in name or ".layers." not in name]
    assert len(names) > 10
    for name in names:
        tensor = tensors[name]
        for wrong in (
            None,
            tensor.flatten()[:-1].clone(),
            tensor.to(torch.int16 if tensor.is_floating_point() else torch.float32),
        ):
            others: dict[str, Tensor] = {key: value for key, value in tensors.items() if key != name}
            save_file(others if wrong is None else others | {name: wrong}, file)
            with pytest.raises((CheckpointError, UsageError)):
                Engine.open(folder)
                pytest.fail(f"{name} as {None if wrong is None else wrong.dtype} was taken")


def test_codes_of_any_content_give_logits_and_no_crash(folder: Path) -> None:
    """Indices of N:16 and codes of integers have no value that points outside: any bytes are some weight."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    random = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if name.rpartition(".")[2].startswith("codes"):
            tensors[name] = torch.randint(0, 256, tensor.shape, dtype=torch.uint8, generator=random)
    save_file(tensors, file)
    assert Engine.open(folder, threads=1).logits(text_ids(40)).shape == (40, 260)
