from pathlib import Path
from typing import Any

import pytest

from gossamer.checkpoint.source import open_model
from gossamer.errors import CheckpointError, GossamerError
from tests.checkpoint.gguf_files import BYTE_LETTERS, write_gguf
from tests.models import tiny_model


def write(tmp_path: Path, keys: dict[str, Any]) -> Path:
    return write_gguf(tiny_model("llama"), "llama", tmp_path / "model.gguf", keys=keys)


def with_tokens(*texts: str, types: int = 3, **keys: Any) -> dict[str, Any]:
    """Metadata of byte-level BPE whose last tokens are `texts`."""
    return {
        "tokenizer.ggml.tokens": [*BYTE_LETTERS, *texts, "ĠĠ"],
        "tokenizer.ggml.token_type": [1] * 256 + [types] * len(texts) + [1],
        "tokenizer.ggml.padding_token_id": None,
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 256,
        **{f"tokenizer.ggml.{name}": value for name, value in keys.items()},
    }


@pytest.mark.parametrize(
    ("keys", "ends"),
    [
        (with_tokens("<a>", "<b>"), [256]),
        (with_tokens("<a>", "<b>", eot_token_id=257), [256, 257]),
        (with_tokens("<a>", "<b>", eom_token_id=257), [256, 257]),
        (with_tokens("<a>", "<|im_end|>"), [256, 257]),
        (with_tokens("<a>", "<end_of_turn>", types=1), [256, 257]),
        (with_tokens("<a>", "<|fim_pad|>"), [256, 257]),
        (with_tokens("<a>", "<b>", fim_sep_token_id=257), [256, 257]),
        (with_tokens("<|return|>", "<|call|>", "<|end|>"), [256, 257]),
        (with_tokens("<|tool_response>", "</s>", "<x>"), [256]),
    ],
)
def test_every_token_that_ends_a_text_is_known(keys: dict[str, Any], ends: list[int], tmp_path: Path) -> None:
    source = open_model(write(tmp_path, keys))
    assert source.generation()["eos_token_id"] == ends
    assert source.load_dense().generation_config.eos_token_id == ends
    assert source.config.eos_token_id == 256


def test_a_token_that_is_known_as_an_end_by_its_text_is_a_control_token(tmp_path: Path) -> None:
    tokenizer = open_model(write(tmp_path, with_tokens("<a>", "<|im_end|>", types=1))).tokenizer()
    assert tokenizer is not None
    assert tokenizer("<|im_end|>").input_ids == [257]
    assert tokenizer.decode([257, BYTE_LETTERS.index("k")], skip_special_tokens=True) == "k"


@pytest.mark.parametrize("name", ["bos", "eos", "eot", "padding", "fim_pre"])
def test_a_named_token_beyond_the_vocabulary_is_refused(name: str, tmp_path: Path) -> None:
    key = f"tokenizer.ggml.{name}_token_id"
    with pytest.raises(CheckpointError, match=f"{key}.*260"):
        open_model(write(tmp_path, {key: 260}))


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"tokenizer.ggml.model": "t5"}, "tokenizer.ggml.model.*'t5'"),
        ({"tokenizer.ggml.pre": "superbpe"}, "tokenizer.ggml.pre.*'superbpe'"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre.*got None"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges.*byte-level BPE"),
        ({"tokenizer.ggml.merges": ["a zz"]}, "tokenizer.ggml.merges.*'a zz'"),
        ({"tokenizer.ggml.token_type": [1] * 9}, "tokenizer.ggml.token_type.*260 numbers.*got 9"),
        ({"tokenizer.ggml.tokens": [*BYTE_LETTERS, "q", "<bos>", "<eos>", "<eos>"]}, "every token once"),
        ({"tokenizer.ggml.tokens": [*BYTE_LETTERS, *map(str, range(100, 200))]}, "at most 260 tokens"),
        ({"tokenizer.ggml.add_bos_token": "yes"}, "add_bos_token.*true or false"),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None}, "bos_token_id"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.scores"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0] * 260}, "<0xNN> for each byte"),
    ],
)
def test_a_tokenizer_that_would_be_a_guess_is_refused(
    keys: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(GossamerError, match=match):
        open_model(write(tmp_path, keys)).tokenizer()


def test_start_and_end_tokens_are_added_as_the_file_asks(tmp_path: Path) -> None:
    k = BYTE_LETTERS.index("k")
    for bos, eos, expected in ((True, True, [257, k, 258]), (False, True, [k, 258]), (None, None, [k])):
        keys = {"tokenizer.ggml.add_bos_token": bos, "tokenizer.ggml.add_eos_token": eos}
        tokenizer = open_model(write(tmp_path, keys)).tokenizer()
        assert tokenizer is not None and tokenizer("k").input_ids == expected
    tokenizer = open_model(
        write(tmp_path, {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None})
    ).tokenizer()
    assert tokenizer is not None and tokenizer("k").input_ids == [257, k]
