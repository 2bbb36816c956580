"""llama.cpp's own test of its tokenizers, on ours."""

from pathlib import Path

import pytest

from gossamer.checkpoint.read.gguf_header import read_gguf
from gossamer.checkpoint.read.gguf_tokenizer import read_tokenizer
from gossamer.errors import RunError
from tests.checkpoint.vocabularies import OTHERS, OURS, cases, fetch_vocabularies


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return fetch_vocabularies()
    except RunError as error:
        pytest.skip(f"{error} `make vocabularies` fetches them.")


@pytest.mark.parametrize("name", [*OURS, *OTHERS])
def test_every_text_gives_the_expected_ids_and_decodes_to_itself(name: str, folder: Path) -> None:
    tokenizer = read_tokenizer(read_gguf(folder / f"{name}.gguf"))
    expected = cases(folder, name)
    found = [(text, tokenizer(text, add_special_tokens=False).input_ids) for text, _ids in expected]
    assert found == expected
    assert [tokenizer.decode(ids) for _text, ids in found] == [text for text, _ids in found]


def test_there_are_as_many_texts_as_the_docs_say(folder: Path) -> None:
    assert sum(len(cases(folder, name)) for name in OURS) == 333
    assert sum(len(cases(folder, name)) for name in OTHERS) == 235
