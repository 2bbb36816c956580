"""Small tokenizers of every family: how they decode is what differs."""

from collections.abc import Callable
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.models import tiny_tokenizer

BYTES = [f"<0x{i:02X}>" for i in range(256)]


def sentencepiece() -> Any:
    """Llama's: bytes as a last resort, the first space of a text dropped."""
    tokens = ["<unk>", "<s>", "</s>", *BYTES, "▁", "a", "▁a", "▁▁", "▁▁▁▁", "b", "é", "."]
    merges = [("▁", "a"), ("▁", "▁"), ("▁▁", "▁▁")]
    return transformers.LlamaTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)


def metaspace() -> Any:
    """T5's: unigrams, spaces of the first token dropped."""
    tokens = ["<pad>", "</s>", "<unk>", "▁", "▁▁", "a", "▁a", "b", "▁.", ".", "é"]
    backend = Tokenizer(models.Unigram([(token, -float(i)) for i, token in enumerate(tokens)], unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return _fast(backend, eos_token="</s>", pad_token="<pad>")


def byte_level() -> Any:
    """GPT-2's: one token a byte, characters of several."""
    return tiny_tokenizer()


def wordpiece() -> Any:
    """BERT's: words joined by spaces, which are tidied twice."""
    tokens = [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "do",
        "n",
        "##n",
        "'",
        "t",
        "##t",
        ".",
        ",",
        "s",
        "ve",
        "##ing",
        "!",
        "é",
    ]
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=True)
    return _fast(backend, cls_token="[CLS]", sep_token="[SEP]", clean_up_tokenization_spaces=True)


def word_ends() -> Any:
    """GPT's of 2018 and CLIP's: the end of a word is marked."""
    tokens = ["<unk>", "a", "a</w>", "b", "b</w>", ".</w>", "'</w>", "t</w>", "n", "n</w>"]
    backend = Tokenizer(
        models.BPE({token: i for i, token in enumerate(tokens)}, [], end_of_word_suffix="</w>")
    )
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    return _fast(backend, eos_token="<unk>", clean_up_tokenization_spaces=True)


def python_bytes() -> Any:
    """ByT5's: written in Python."""
    return transformers.ByT5Tokenizer(extra_ids=4)


def _fast(backend: Tokenizer, **settings: Any) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **settings)


FAMILIES: dict[str, Callable[[], Any]] = {
    each.__name__: each for each in (sentencepiece, metaspace, byte_level, wordpiece, word_ends, python_bytes)
}
