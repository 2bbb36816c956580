import heapq
import random
from pathlib import Path
from typing import Any

import pytest

from gossamer.checkpoint.source import open_model
from tests.checkpoint.gguf_files import BYTE_LETTERS, write_gguf
from tests.models import tiny_model


def tokenizer_of(tmp_path: Path, keys: dict[str, Any], pre: str = "gpt-2") -> Any:
    model = tiny_model("llama", vocab_size=400)
    return open_model(write_gguf(model, "llama", tmp_path / "model.gguf", pre=pre, keys=keys)).tokenizer()


def sentencepiece(pieces: dict[str, float], **keys: Any) -> dict[str, Any]:
    """Metadata of BPE by scores: 3 special tokens, 256 bytes, and `pieces` with their scores."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + list(pieces.values()),
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.padding_token_id": None,
        "tokenizer.ggml.bos_token_id": None,
        "tokenizer.ggml.eos_token_id": None,
        "tokenizer.ggml.add_bos_token": None,
        **{f"tokenizer.ggml.{name}": value for name, value in keys.items()},
    }


def test_single_digits_are_split_off_first_where_the_file_asks_for_it(tmp_path: Path) -> None:
    for pre, spaces in (("smollm", 1), ("gpt-2", 2)):
        # "a  1": with digits split off first both spaces stay together and merge
        assert len(tokenizer_of(tmp_path, {}, pre)("a  1").input_ids) == 2 + spaces


def test_control_and_user_defined_tokens_are_one_id_each(tmp_path: Path) -> None:
    texts = ["<\uff5cbegin▁of▁sentence\uff5c>", "<\uff5cUser\uff5c>", "  two spaces", "für"]
    keys = {
        "tokenizer.ggml.tokens": [*BYTE_LETTERS, *texts, "ĠĠ"],
        "tokenizer.ggml.token_type": [1] * 256 + [3, 3, 4, 4, 1],
        "tokenizer.ggml.bos_token_id": 256,
    }
    tokenizer = tokenizer_of(tmp_path, keys)
    assert tokenizer("".join(texts)).input_ids == [256, 257, 258, 259]
    assert tokenizer.decode([256, 257, 258, 259], skip_special_tokens=False) == "".join(texts)
    assert tokenizer.decode([257, 258, 259], skip_special_tokens=True) == "  two spacesfür"
    assert len(tokenizer) == 261


def test_an_end_token_that_is_a_normal_token_is_not_looked_for_in_texts(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, {"tokenizer.ggml.eos_token_id": 259, "tokenizer.ggml.pre": "smollm"})
    assert tokenizer.convert_ids_to_tokens(tokenizer("a   1").input_ids) == ["a", "ĠĠ", "Ġ", "1"]
    assert tokenizer.eos_token is None


def test_phi_3_takes_white_space_after_a_special_token_away(tmp_path: Path) -> None:
    for name, expected in (("Phi-3-mini", ["<eos>", "a"]), ("other", ["<eos>", "Ġ", "a"])):
        tokenizer = tokenizer_of(tmp_path, {"general.name": name})
        assert tokenizer.convert_ids_to_tokens(tokenizer("<eos> a").input_ids) == expected


@pytest.mark.parametrize(("prefix", "expected"), [(None, [1, 263]), (True, [1, 263]), (False, [1, 262])])
def test_a_space_is_put_in_front_unless_the_file_says_not_to(
    prefix: bool | None, expected: list[int], tmp_path: Path
) -> None:
    pieces = {"▁": -9.0, "h": -8.0, "i": -7.0, "hi": -2.0, "▁hi": -1.0}
    tokenizer = tokenizer_of(tmp_path, sentencepiece(pieces, add_space_prefix=prefix))
    assert tokenizer("hi").input_ids == expected
    assert tokenizer.decode(expected, skip_special_tokens=True) == "hi"
    assert tokenizer("hi</s>hi").input_ids == [*expected, 2, *expected[1:]]


def llama_cpp(text: str, scores: dict[str, float]) -> list[str]:
    """`llm_tokenizer_spm_session` of llama.cpp: join the best neighbours, the leftmost first, until none is a token."""
    symbols = list(text)
    before, after = [i - 1 for i in range(len(text))], [*range(1, len(text)), -1]
    queue: list[tuple[float, int, int, int]] = []

    def offer(left: int, right: int) -> None:
        joined = symbols[left] + symbols[right] if min(left, right) >= 0 else ""
        if joined in scores:
            heapq.heappush(queue, (-scores[joined], left, right, len(joined)))

    for right in range(1, len(text)):
        offer(right - 1, right)
    while queue:
        _score, left, right, size = heapq.heappop(queue)
        if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != size:
            continue
        symbols[left], symbols[right] = symbols[left] + symbols[right], ""
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        offer(before[left], left)
        offer(left, after[left])
    return [symbol for symbol in symbols if symbol]


def test_texts_are_joined_in_the_order_of_llama_cpp(tmp_path: Path) -> None:
    draw = random.Random(0)
    pieces = dict.fromkeys("▁abc", -99.0)
    while len(pieces) < 120:
        left, right = draw.choice(list(pieces)), draw.choice(list(pieces))
        pieces.setdefault((left + right)[:6], -float(len(pieces)))
    tokenizer = tokenizer_of(tmp_path, sentencepiece(pieces, add_space_prefix=False))
    for _ in range(200):
        text = "".join(draw.choices(" abc", k=draw.randint(1, 60)))
        found = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)
        assert found == llama_cpp(text.replace(" ", "▁"), pieces), text
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    ids = tokenizer("aé", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "<0xC3>", "<0xA9>"]
