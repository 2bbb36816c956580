"""Text in and out: pieces join to the whole, stops are not part of it, and templates are input."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import CheckpointError, UsageError
from gossamer.runtime.text import encode, stream
from tests.models import tiny_tokenizer
from tests.runtime.tokenizers import FAMILIES, byte_level, sentencepiece

tokenizer_of = cache(lambda family: FAMILIES[family]())


def joined(tokenizer: Any, ids: list[int], *more: Any) -> str:
    return "".join(stream(tokenizer, iter(ids), *more))


# ---- out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_pieces_join_to_what_decoding_at_once_gives(family: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(family)
    last = len(tokenizer) - 1  # words come after the bytes: half of the draws
    ids = data.draw(st.lists(st.integers(0, last) | st.integers(max(0, last - 12), last), max_size=30))
    assert joined(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("family", ["sentencepiece", "byte_level", "python_bytes"])
@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=20))
def test_pieces_of_real_text_join_to_it(family: str, text: str) -> None:
    tokenizer = tokenizer_of(family)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert joined(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)


@settings(max_examples=50, deadline=None)
@given(tail=st.lists(st.sampled_from(["'", "n", "t", "s", "ve", ".", "do", "!"]), min_size=40, max_size=60))
def test_tidied_spaces_reach_no_further_than_what_is_held_back(tail: list[str]) -> None:
    tokenizer = tokenizer_of("wordpiece")
    ids = tokenizer.convert_tokens_to_ids(tail)
    assert joined(tokenizer, ids) == tokenizer.decode(ids)


def test_four_spaces_behind_a_line_stay_four() -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.convert_tokens_to_ids(["<0x0A>", "▁▁▁▁", "b"])
    assert joined(tokenizer, ids) == tokenizer.decode(ids) == "\n    b"


def test_text_comes_as_soon_as_it_is_certain() -> None:
    tokenizer = byte_level()
    ids = tokenizer("a你b", add_special_tokens=False)["input_ids"]
    assert list(stream(tokenizer, iter(ids))) == ["a", "你", "b"]


def test_a_stop_token_is_not_printed_whether_it_is_special_or_not() -> None:
    tokenizer = byte_level()
    ids = tokenizer("abc", add_special_tokens=False)["input_ids"]
    assert joined(tokenizer, ids, frozenset([ids[1]])) == "a"
    assert (
        joined(tokenizer, [*ids, tokenizer.eos_token_id, *ids], frozenset([tokenizer.eos_token_id])) == "abc"
    )


@given(
    text=st.text(alphabet="ab\n", max_size=30),
    stops=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), min_size=1, max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_text_ends_in_front_of_the_first_stop_string(text: str, stops: list[str]) -> None:
    tokenizer = tokenizer_of("byte_level")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = [text[:end] for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    expected = text
    if whole:  # the shortest text that has a stop in it, without the longest stop that begins first
        expected = whole[0][: min(whole[0].index(stop) for stop in stops if stop in whole[0])]
    assert joined(tokenizer, ids, frozenset(), stops) == expected


def test_who_stops_listening_ends_the_tokens() -> None:
    ended = []

    def tokens() -> Iterator[int]:
        try:
            while True:
                yield 65
        finally:
            ended.append(True)

    pieces = stream(byte_level(), tokens())
    next(pieces)
    pieces.close()
    assert ended
    assert joined(byte_level(), tokens(), frozenset([65])) == ""  # type: ignore[arg-type]
    assert len(ended) == 2


# ---- in -----------------------------------------------------------------------------------------------------


def templated(template: Any) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_the_prompt_is_a_message_in_the_template_and_raw_leaves_it_out() -> None:
    tokenizer = templated("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<answer>")
    assert encode(tokenizer, "hi") == encode(tiny_tokenizer(), "<user>hi<answer>")
    assert encode(tokenizer, "hi", raw=True) == encode(tiny_tokenizer(), "hi")


def test_a_template_that_wants_a_list_of_parts_gets_one() -> None:
    parts = "{% for part in messages[0]['content'] %}{% if part['type'] == 'text' %}[{{ part['text'] }}]"
    tokenizer = templated(parts + "{% endif %}{% endfor %}")
    assert encode(tokenizer, "hi") == encode(tiny_tokenizer(), "[hi]")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("a\n{% for m in messages %}", "in line 2"),
        ({"tool_use": "{{ messages }}"}, "no default"),
        ("{{ nothing.there }}", "undefined"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("a fixed text", "leaves the message out"),
        ("{{ ''.__class__.__mro__ }}{{ messages }}", "unsafe"),
    ],
)
def test_a_template_that_cannot_be_used_is_named_with_the_way_out(template: Any, reason: str) -> None:
    with pytest.raises(CheckpointError, match="chat template") as refused:
        encode(templated(template), "hi", where="my-model")
    assert reason in str(refused.value)
    assert "my-model" in str(refused.value)
    assert "--raw" in str(refused.value)
    assert encode(templated(template), "hi", raw=True)


def with_start(**settings: Any) -> Any:
    """Llama's tokenizer, which adds a start token."""
    tokenizer = sentencepiece()
    tokenizer.add_bos_token = True
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


def test_there_is_one_start_token_whoever_writes_it() -> None:
    tokenizer = with_start(chat_template="{{ bos_token }}{{ messages[0]['content'] }}")
    start = tokenizer.bos_token_id
    for ids in (
        encode(tokenizer, "a"),
        encode(tokenizer, "a", raw=True),
        encode(tokenizer, "<s>a", raw=True),
    ):
        assert ids.count(start) == 1
        assert ids[0] == start
    assert encode(tokenizer, "a", add_start=True) == encode(tokenizer, "a")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert encode(tokenizer, "a", add_start=True) == [start, *encode(tokenizer, "a")]


def test_an_empty_prompt_is_refused_where_nothing_is_left_to_read() -> None:
    with pytest.raises(UsageError, match="empty"):
        encode(tiny_tokenizer(), "")
    assert encode(templated("<user>{{ messages[0]['content'] }}"), "")
    assert encode(with_start(), "") == [1]  # the start token is something to read
