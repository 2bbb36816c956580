"""A tokenizer of the `tokenizers` library for the vocabulary of a GGUF file, with the file's ids.

Byte-level BPE ("gpt2"): text is split by the patterns of its pre-tokenizer, bytes become letters, merges follow.
BPE by scores ("llama", SentencePiece): spaces become U+2581; of two neighbours that together are a token those are
joined first whose token has the best score, the leftmost first; what is no token falls back to bytes. Merges are
made for every way to cut a token into two tokens. Where a token can be cut in several ways and two of them overlap
("aa" + "a" and "a" + "aa"), llama.cpp takes the leftmost, tokenizers the cut of the lower rank; see `_merges`.
"""

import re
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from gossamer.checkpoint.read.gguf_header import GGUFFile
from gossamer.checkpoint.read.gguf_pretokenizers import PRE_TOKENIZERS
from gossamer.checkpoint.read.gguf_vocabulary import (
    CONTROL,
    SENTENCEPIECE,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    read_vocabulary,
)
from gossamer.errors import CheckpointError

_SPACE = "▁"
_FOUND_IN_TEXTS = (UNKNOWN, CONTROL, USER_DEFINED)
_NOT_STRIPPED = ("<unk>", "<s>", "<|endoftext|>")
_STRIPS_BEFORE = {"jina-v2-de": "<mask>", "jina-v2-es": "<mask>", "jina-v2-code": "<mask>"}
_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def read_tokenizer(file: GGUFFile) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the file; raises as `read_vocabulary`, and CheckpointError for merges that make none."""
    vocabulary = read_vocabulary(file)
    build = _sentencepiece if vocabulary.model == SENTENCEPIECE else _byte_level
    tokenizer = build(file, vocabulary)
    _add_special(tokenizer, vocabulary)
    _add_ends(tokenizer, vocabulary)
    tokens = vocabulary.tokens
    wrong = [index for index, text in enumerate(tokens) if tokenizer.token_to_id(text) != index]
    if wrong or tokenizer.get_vocab_size() != len(tokens):
        raise CheckpointError(
            f"{file.path}, key 'tokenizer.ggml.tokens': expected a tokenizer with the file's {len(tokens)} ids, got "
            f"{tokenizer.get_vocab_size()} ids of which {len(wrong)} differ ({[tokens[i] for i in wrong[:3]]})."
        )
    template = file.metadata.get("tokenizer.chat_template")
    settings: dict[str, Any] = {"chat_template": template} if isinstance(template, str) else {}
    # the library makes of every token that it is given a name for one that is found in texts: of no normal token, here
    ids = {name: vocabulary.ids[name] for name in _NAMES if name in vocabulary.ids}
    named = {f"{name}_token": tokens[i] for name, i in ids.items() if vocabulary.kinds[i] in _FOUND_IN_TEXTS}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named, **settings
    )


def _byte_level(file: GGUFFile, vocabulary: Vocabulary) -> Tokenizer:
    rule = PRE_TOKENIZERS[vocabulary.pre]
    place = {text: index for index, text in enumerate(vocabulary.tokens)}
    pairs: dict[tuple[str, str], None] = {}  # of a pair that comes twice the first rank counts
    for merge in vocabulary.merges:
        cut = merge.find(" ", 1)
        left, right = merge[:cut], merge[cut + 1 :]
        if cut < 0 or left not in place or right not in place or left + right not in place:
            raise CheckpointError(
                f"{file.path}, key 'tokenizer.ggml.merges': expected two tokens that together are a token, got "
                f"{merge!r:.80}. The merges are another model's."
            )
        pairs[left, right] = None
    tokenizer = Tokenizer(BPE(place, list(pairs), ignore_merges=rule.ignore_merges))
    splits: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, letters])
    tokenizer.decoder = _byte_level_decoder(vocabulary)
    return tokenizer


def _byte_level_decoder(vocabulary: Vocabulary) -> Any:
    """Letters back to bytes, but for tokens added as plain text whose letters would be taken for bytes ("ö")."""
    plain = decoders.ByteLevel()
    added = np.flatnonzero(np.isin(vocabulary.kinds, (CONTROL, USER_DEFINED))).tolist()
    odd = [text for index in added if plain.decode([text := vocabulary.tokens[index]]) != text]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    steps: list[Any] = [
        decoders.Replace(
            Regex(rf"\A{re.escape(text)}\z"), "".join(p for p, _ in letters.pre_tokenize_str(text))
        )
        for text in odd
    ]
    return decoders.Sequence([*steps, plain]) if steps else plain


def _sentencepiece(file: GGUFFile, vocabulary: Vocabulary) -> Tokenizer:
    place = {text: index for index, text in enumerate(vocabulary.tokens)}
    absent = [byte for byte in range(256) if f"<0x{byte:02X}>" not in place]
    if absent:
        raise CheckpointError(
            f"{file.path}, key 'tokenizer.ggml.tokens': expected a token <0xNN> for each byte, {len(absent)} are "
            f"missing (<0x{absent[0]:02X}>, ...): some text could not be told."
        )
    merges = _merges(vocabulary, place)
    tokenizer = Tokenizer(BPE(place, merges, byte_fallback=True))
    prefix = [normalizers.Prepend(_SPACE)] if vocabulary.add_space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if vocabulary.add_space_prefix else []
    tokenizer.decoder = decoders.Sequence([*steps, *strip])
    return tokenizer


def _merges(vocabulary: Vocabulary, place: dict[str, int]) -> list[tuple[str, str]]:
    """Return every pair of tokens whose join is a token, best score first; of one token the longest left part first."""
    scores = vocabulary.scores
    assert scores is not None
    merges = []
    for index in np.argsort(-scores.astype(np.float64), kind="stable").tolist():
        text = vocabulary.tokens[index]
        for cut in range(len(text) - 1, 0, -1):
            left, right = text[:cut], text[cut:]
            if left in place and right in place:
                merges.append((left, right))
    return merges


def _add_special(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Make control, unknown and user-defined tokens one id each, wherever they stand in a text."""
    strips_before = _STRIPS_BEFORE.get(vocabulary.pre)
    added = []
    for index in np.flatnonzero(np.isin(vocabulary.kinds, _FOUND_IN_TEXTS)).tolist():
        text = vocabulary.tokens[index]
        added.append(
            AddedToken(
                text,
                special=bool(vocabulary.kinds[index] != USER_DEFINED),
                normalized=False,
                lstrip=text == strips_before,
                rstrip=vocabulary.strip_after_special and text not in _NOT_STRIPPED,
            )
        )
    tokenizer.add_tokens(added)


def _add_ends(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Add start and end tokens to a text where the file asks for it."""
    wanted = {"bos": vocabulary.add_bos, "eos": vocabulary.add_eos}
    named = {name: vocabulary.tokens[vocabulary.ids[name]] for name, flag in wanted.items() if flag}
    before, after = ([named[name]] if name in named else [] for name in ("bos", "eos"))
    if named:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[
                *before,
                "$A",
                *after,
                *(f"{text}:1" for text in before),
                "$B:1",
                *(f"{t}:1" for t in after),
            ],
            special_tokens=[(text, tokenizer.token_to_id(text)) for text in {*named.values()}],
        )
