"""Tokens and windows, against the joined text tokenised by hand."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from gossamer.data import tokens
from gossamer.data.sources import Document
from gossamer.data.tokens import added_tokens, check_ids, start_tokens, tokenize, windows
from gossamer.errors import DataError, UsageError
from tests.models import tiny_tokenizer

TEXTS = ["The naïve cat sat on the mat.", "Ünïcödé: 猫 😀 and more", "x" * 50]
DOCUMENTS = [Document(text, str(index)) for index, text in enumerate(TEXTS)]


def trained_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


def test_tokens_are_those_of_the_joined_text() -> None:
    tokenizer = trained_tokenizer()
    stream = tokenize(DOCUMENTS, tokenizer)
    assert stream.ids_T.tolist() == tokenizer("\n\n".join(TEXTS))["input_ids"]
    assert (stream.num_documents, stream.start, stream.ids_T.dtype) == (3, (), torch.int64)


def test_byte_counts_are_exact_for_the_stream_and_close_inside() -> None:
    stream = tokenize(DOCUMENTS, trained_tokenizer())
    joined = "\n\n".join(TEXTS)
    assert stream.num_bytes == len(joined.encode())
    assert (stream.bytes_T >= 0).all()
    ascii_stream = tokenize([Document("The cat sat on the mat.", "a")], trained_tokenizer())
    tokenizer = trained_tokenizer()
    assert ascii_stream.bytes_T.tolist() == [
        len(tokenizer.decode([token])) for token in ascii_stream.ids_T.tolist()
    ]


def test_a_character_split_over_tokens_counts_once() -> None:
    stream = tokenize([Document("a😀b", "a")], tiny_tokenizer())  # one token a byte
    assert stream.bytes_T.tolist() == [1, 4, 0, 0, 0, 1]


BOS, EOS = 257, 258


@pytest.mark.parametrize(
    ("template", "added"),
    [
        ("$A", ((), ())),
        ("<bos> $A", ((BOS,), ())),
        ("<bos> $A <eos>", ((BOS,), (EOS,))),
        ("<eos> <bos> $A", ((EOS, BOS), ())),
        ("$A <eos>", ((), (EOS,))),
    ],
)
def test_what_a_tokenizer_adds_is_found_by_tokenising(
    template: str, added: tuple[tuple[int, ...], ...]
) -> None:
    tokenizer = tiny_tokenizer(template)
    assert tokenizer.bos_token_id == BOS  # the name alone says nothing
    assert added_tokens(tokenizer) == added
    assert start_tokens(tokenizer) == added[0]
    nameless = tiny_tokenizer(template)
    nameless.bos_token = nameless.eos_token = None
    assert start_tokens(nameless) == added[0]


def test_the_frame_of_an_encoder_is_no_start_token() -> None:
    tokenizer = tiny_tokenizer("<bos> $A <eos>")
    tokenizer.cls_token, tokenizer.sep_token = "<bos>", "<eos>"
    assert start_tokens(tokenizer) == ()
    assert tokenize(DOCUMENTS, tokenizer).start == ()


@pytest.mark.parametrize("stride", [4, 3, 1])
def test_every_window_opens_with_the_start_token_in_the_place_of_its_first(stride: int) -> None:
    documents = [Document("abcdefghijkl", "a")]
    plain, opened = (tokenize(documents, tiny_tokenizer(template)) for template in ("$A", "<bos> $A"))
    assert opened.ids_T.tolist() == [BOS, *plain.ids_T.tolist()]
    cut = windows(opened, 4, stride)
    expected_NL = opened.ids_T.unfold(0, 4, stride).clone()
    expected_NL[:, 0] = BOS
    assert torch.equal(cut.ids_NL, expected_NL)
    assert cut.bytes_NL.tolist() == [[0, 1, 1, 1]] * len(cut)
    assert opened.ids_T.tolist() == [BOS, *plain.ids_T.tolist()]  # the stream is left as it was


def test_two_start_tokens_open_every_window() -> None:
    cut = windows(tokenize([Document("abcdefghij", "a")], tiny_tokenizer("<eos> <bos> $A")), 4)
    assert cut.ids_NL[:, :2].tolist() == [[EOS, BOS]] * 3
    with pytest.raises(UsageError, match="length >= 3"):
        windows(tokenize(DOCUMENTS, tiny_tokenizer("<eos> <bos> $A")), 2)


def test_tokens_without_an_embedding_are_refused_by_name() -> None:
    documents = [Document("a <unk> b", "a")]
    assert len(tokenize(documents, tiny_tokenizer(), vocabulary=260)) == 5
    with pytest.raises(DataError, match=r"turns: .*259 \('<unk>'\); its embedding has 259 rows"):
        tokenize(documents, tiny_tokenizer(), "turns", vocabulary=259)
    with pytest.raises(DataError, match="and 2 more"):
        check_ids(torch.tensor([[1, 255], [256, 257], [258, 259]]), 255, tiny_tokenizer(), "turns")
    check_ids(torch.tensor([], dtype=torch.int64), 1, tiny_tokenizer(), "nothing")


def test_one_bos_at_the_very_start_if_the_tokenizer_adds_one() -> None:
    stream = tokenize(DOCUMENTS, trained_tokenizer(bos=True))
    assert stream.start == (0,)
    assert stream.ids_T[0] == 0
    assert (stream.ids_T[1:] != 0).all()
    assert stream.num_bytes == len("\n\n".join(TEXTS).encode())


def test_batches_keep_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokenize(DOCUMENTS, tiny_tokenizer())
    monkeypatch.setattr(tokens, "BATCH_CHARACTERS", 10)
    batched = tokenize(DOCUMENTS, tiny_tokenizer())
    assert torch.equal(batched.ids_T, whole.ids_T)
    assert torch.equal(batched.bytes_T, whole.bytes_T)


def test_tokenizers_without_offsets_spread_the_bytes() -> None:
    class Slow:
        bos_token_id = None

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": list(range(len(text.split())))}

    stream = tokenize(DOCUMENTS, Slow())
    assert stream.num_bytes == len("\n\n".join(TEXTS).encode())


def test_long_texts_do_not_warn(recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture) -> None:
    tokenize([Document("x" * 5000, "a")], tiny_tokenizer())
    assert not recwarn.list
    assert not caplog.text


def test_no_text_and_no_tokens_are_refused() -> None:
    with pytest.raises(DataError, match="wiki: expected documents"):
        tokenize([], tiny_tokenizer(), name="wiki")

    class Mute:
        bos_token_id = None

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": []}

    with pytest.raises(DataError, match="no tokens"):
        tokenize(DOCUMENTS, Mute())


def test_windows_are_full_without_overlap_and_drop_the_tail() -> None:
    stream = tokenize([Document("abcdefghij", "a")], tiny_tokenizer())
    cut = windows(stream, 4)
    assert torch.equal(cut.ids_NL, stream.ids_T[:8].view(2, 4))
    assert (len(cut), cut.length, cut.stride) == (2, 4, 4)
    assert len(windows(stream, 4, limit=1)) == 1
    assert windows(stream, 4, limit=1).sha8 != cut.sha8
    assert windows(stream, 4).sha8 == cut.sha8


def test_windows_overlap_with_a_stride() -> None:
    stream = tokenize([Document("abcdefghij", "a")], tiny_tokenizer())
    cut = windows(stream, 4, stride=3)
    assert torch.equal(cut.ids_NL, torch.stack([stream.ids_T[0:4], stream.ids_T[3:7], stream.ids_T[6:10]]))


def test_too_short_texts_and_impossible_windows_are_refused() -> None:
    stream = tokenize([Document("abc", "a")], tiny_tokenizer(), name="short")
    with pytest.raises(DataError, match="short: one window needs 4 tokens, the text has 3"):
        windows(stream, 4)
    for settings in (
        {"length": 1},
        {"length": 3, "stride": 0},
        {"length": 3, "stride": 4},
        {"length": 3, "limit": 0},
    ):
        with pytest.raises(UsageError, match="expected length"):
            windows(stream, **settings)
