"""What a folder says of generation: what is written, and nothing that is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from gossamer.checkpoint.read.generation import read_generation, token_ids
from gossamer.errors import CheckpointError


def said(folder: Path, generation: Any, **config: Any) -> dict[str, Any]:
    if generation is not None:
        text = generation if isinstance(generation, str) else json.dumps(generation)
        (folder / "generation_config.json").write_text(text)
    return read_generation(folder, {"model_type": "llama", **config})


def test_generation_config_comes_before_config(tmp_path: Path) -> None:
    assert said(tmp_path, {"eos_token_id": 3, "top_k": 5}, eos_token_id=4, bos_token_id=1) == {
        "eos_token_id": [3], "top_k": 5, "bos_token_id": 1,
    }  # fmt: skip


def test_null_says_nothing(tmp_path: Path) -> None:
    assert said(tmp_path, {"eos_token_id": None, "top_k": None}, eos_token_id=[4, 5]) == {
        "eos_token_id": [4, 5]
    }


def test_defaults_of_classes_are_nobodys_word(tmp_path: Path) -> None:
    assert said(tmp_path, None) == {}


def test_the_part_about_text_is_asked_too(tmp_path: Path) -> None:
    assert said(tmp_path, None, text_config={"eos_token_id": 4}) == {"eos_token_id": [4]}


def test_old_folders_keep_it_in_config(tmp_path: Path) -> None:
    old = {"do_sample": True, "temperature": 0.5, "hidden_size": 64, "eos_token_id": 4}
    expected = {"do_sample": True, "temperature": 0.5, "eos_token_id": [4]}
    assert said(tmp_path, None, **old) == expected
    assert said(tmp_path, {}, **old) == {"eos_token_id": [4]}  # transformers reads it so, too


@pytest.mark.parametrize("wrong", ["</s>", -1, 2**31, True, [1, None], {"a": 1}, 1.0])
def test_what_is_no_token_id_is_refused(wrong: Any) -> None:
    with pytest.raises(CheckpointError, match="folder: expected a token id"):
        token_ids(wrong, "folder")


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_file_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        said(tmp_path, text)
