"""The vocabulary of a GGUF file: tokens, their kinds, and which of them begin and end a text, as llama.cpp has them.

Source: `llama_vocab::impl::load` of llama.cpp, src/llama-vocab.cpp. Two of its defaults are not taken: with byte-level
BPE it believes token 11 to be both start and end where the file names none (Falcon's), and it guesses a
pre-tokenizer where the file names none.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from gossamer.checkpoint.read.gguf_header import GGUFFile
from gossamer.checkpoint.read.gguf_pretokenizers import PRE_TOKENIZERS
from gossamer.errors import CheckpointError, UnsupportedModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Values of `tokenizer.ggml.token_type`."""
SENTENCEPIECE, BYTE_LEVEL = "llama", "gpt2"
"""Values of `tokenizer.ggml.model` that are read: BPE by scores, and byte-level BPE by merges."""
ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<\uff5cend▁of▁sentence\uff5c>", "[e~[",
)  # fmt: skip
"""Texts of tokens that end what a model writes, whatever the file says of them."""
_FILL_IN = {
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
"""Tokens around a text to be filled in: they end it too. Key in the file -> texts where the key is missing."""
_ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
IDS = {
    "bos": "bos", "eos": "eos", "eot": "eot", "eom": "eom", "unk": "unknown", "sep": "seperator", "pad": "padding",
    "cls": "cls", "mask": "mask", "fim_pre": "fim_pre", "fim_suf": "fim_suf", "fim_mid": "fim_mid",
    "fim_pad": "fim_pad", "fim_rep": "fim_rep", "fim_sep": "fim_sep",
}  # fmt: skip
"""Our name of a token -> `tokenizer.ggml.NAME_token_id` (spelt as llama.cpp spells it)."""
_SENTENCEPIECE_IDS = {"bos": 1, "eos": 2, "unk": 0}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a file says of its tokens. The index of a token is its id."""

    model: str
    pre: str
    tokens: list[str]
    kinds: np.ndarray
    """[tokens], values as above."""
    scores: np.ndarray | None
    merges: list[str]
    ids: dict[str, int]
    """Names as in `IDS`, those that the model has."""
    ends: tuple[int, ...]
    """Ids that end a text, ascending."""
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    strip_after_special: bool
    """Phi-3: white space after a special token belongs to it."""


def read_vocabulary(file: GGUFFile) -> Vocabulary:
    """Return the vocabulary of the file.

    Raises UnsupportedModelError for a tokenizer that is not read, CheckpointError for one that contradicts itself.
    """
    metadata = file.metadata
    model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if model not in (SENTENCEPIECE, BYTE_LEVEL):
        raise UnsupportedModelError(
            f"{file.path}, key 'tokenizer.ggml.model': expected '{SENTENCEPIECE}' or '{BYTE_LEVEL}', got "
            f"{model!r:.50}. Such a tokenizer is not handled: use the model's safetensors folder."
        )
    if model == BYTE_LEVEL and pre not in PRE_TOKENIZERS:
        raise UnsupportedModelError(
            f"{file.path}, key 'tokenizer.ggml.pre': expected the name of a known pre-tokenizer "
            f"({', '.join(sorted(PRE_TOKENIZERS))}), got {pre!r:.60}. How text is split would be a guess: use the "
            "model's safetensors folder, or convert it again with a current llama.cpp."
        )
    tokens = _tokens(file)
    ids, kinds, ends = _roles(file, tokens)
    rule = PRE_TOKENIZERS.get(str(pre)) if model == BYTE_LEVEL else None
    vocabulary = Vocabulary(
        model=model,
        pre=str(pre),
        tokens=tokens,
        kinds=kinds,
        scores=_array(file, "tokenizer.ggml.scores", len(tokens), None),
        merges=_texts(file, "tokenizer.ggml.merges") if model == BYTE_LEVEL else [],
        ids=ids,
        ends=ends,
        add_bos=_flag(file, "add_bos_token", rule.add_bos if rule else True),
        add_eos=_flag(file, "add_eos_token", False),
        add_space_prefix=_flag(file, "add_space_prefix", True) if model == SENTENCEPIECE else False,
        strip_after_special=_is_phi3(metadata.get("general.name")),
    )
    _check(file, vocabulary)
    return vocabulary


def end_ids(file: GGUFFile) -> tuple[int, ...]:
    """Return the ids that end what a model writes, ascending; none for a file without tokens."""
    return _roles(file, _tokens(file))[2] if "tokenizer.ggml.tokens" in file.metadata else ()


def _roles(file: GGUFFile, tokens: list[str]) -> tuple[dict[str, int], np.ndarray, tuple[int, ...]]:
    """Return (name -> id, kind of each token, ids that end a text): what the file says, and what texts tell."""
    ids = token_ids(file, len(tokens))
    place = {token: index for index, token in enumerate(tokens)}
    kinds = _array(file, "tokenizer.ggml.token_type", len(tokens), np.full(len(tokens), NORMAL)).astype(
        np.int64
    )
    by_text = [place[text] for text in ENDS if text in place]
    kinds[by_text] = CONTROL
    for name, texts in _FILL_IN.items():
        found = [place[text] for text in texts if text in place]
        if name not in ids and found:
            ids[name] = found[0]
            kinds[found[0]] = CONTROL
    kinds[[place[text] for text in _ALWAYS_SHOWN if text in place]] = USER_DEFINED
    ends = {*by_text, *(ids[name] for name in ("eos", "eot", "eom", *_FILL_IN) if name in ids)}
    _drop_false_ends(ends, place, kinds)
    return ids, kinds, tuple(sorted(ends))


def token_ids(file: GGUFFile, num_tokens: int) -> dict[str, int]:
    """Return name -> id of the tokens that the file names, as in `IDS`; CheckpointError for one beyond the tokens."""
    defaults = _SENTENCEPIECE_IDS if file.metadata.get("tokenizer.ggml.model") == SENTENCEPIECE else {}
    ids = {name: index for name, index in defaults.items() if index < num_tokens}
    for name, key in IDS.items():
        full = f"tokenizer.ggml.{key}_token_id"
        value = file.metadata.get(full)
        if value is None:
            continue
        if type(value) is not int or not 0 <= value < num_tokens:
            raise CheckpointError(
                f"{file.path}, key {full!r}: expected a token of the vocabulary (0 to {num_tokens - 1}), "
                f"got {value!r:.40}. The file is corrupted: copy or download it again."
            )
        ids[name] = value
    return ids


def _drop_false_ends(ends: set[int], place: dict[str, int], kinds: np.ndarray) -> None:
    """Texts that end elsewhere and not here: `<|end|>` of gpt-oss and Solar, `</s>` of Gemma 4."""
    found = {text for text in ENDS if place.get(text) in ends}
    calls = bool(found & {"<|call|>", "<|calls|>"}) and bool(found & {"<|return|>", "<|flush|>"})
    if calls and "<|end|>" in found:
        ends.discard(place["<|end|>"])
        kinds[place["<|end|>"]] = USER_DEFINED
    if "<|tool_response>" in found and "</s>" in found:
        ends.discard(place["</s>"])
        kinds[place["</s>"]] = NORMAL


def _tokens(file: GGUFFile) -> list[str]:
    tokens = [text or f"[EMPTY_{index}]" for index, text in enumerate(_texts(file, "tokenizer.ggml.tokens"))]
    if len(set(tokens)) < len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise CheckpointError(
            f"{file.path}, key 'tokenizer.ggml.tokens': expected every token once, got {twice!r:.60} twice. "
            "The file is corrupted or was converted wrongly."
        )
    rows = file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else len(tokens)
    if len(tokens) > rows:
        raise CheckpointError(
            f"{file.path}, key 'tokenizer.ggml.tokens': expected at most {rows} tokens, one for each row of "
            f"'token_embd.weight', got {len(tokens)}. The vocabulary is another model's."
        )
    return tokens


def _texts(file: GGUFFile, key: str) -> list[str]:
    value = file.metadata.get(key)
    if not isinstance(value, list) or not value:
        what = (
            "merges, without which byte-level BPE cannot make tokens" if key.endswith("merges") else "tokens"
        )
        raise CheckpointError(
            f"{file.path}, key {key!r}: expected a list of {what}, got "
            f"{'no such key' if value is None else type(value).__name__}. Convert the model again with a current "
            "llama.cpp."
        )
    return value


def _array(file: GGUFFile, key: str, size: int, default: Any) -> Any:
    value = file.metadata.get(key)
    if value is None:
        return default
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "if" or len(value) < size:
        raise CheckpointError(
            f"{file.path}, key {key!r}: expected {size} numbers, one for each token, got "
            f"{len(value) if isinstance(value, np.ndarray | list) else type(value).__name__}. The file is corrupted."
        )
    return value[:size]


def _flag(file: GGUFFile, name: str, default: bool) -> bool:
    value = file.metadata.get(f"tokenizer.ggml.{name}", default)
    if type(value) is not bool:
        raise CheckpointError(
            f"{file.path}, key 'tokenizer.ggml.{name}': expected true or false, got {value!r:.40}."
        )
    return value


def _is_phi3(name: Any) -> bool:
    return isinstance(name, str) and any(known in name.lower() for known in ("phi-3", "phi3"))


def _check(file: GGUFFile, vocabulary: Vocabulary) -> None:
    for flag, name in ((vocabulary.add_bos, "bos"), (vocabulary.add_eos, "eos")):
        if flag and name not in vocabulary.ids:
            raise CheckpointError(
                f"{file.path}, key 'tokenizer.ggml.{name}_token_id': expected the token that every text gets (as "
                f"'tokenizer.ggml.add_{name}_token' or the tokenizer's kind says), there is no such key."
            )
    if vocabulary.model == SENTENCEPIECE:
        if vocabulary.scores is None:
            raise CheckpointError(
                f"{file.path}, key 'tokenizer.ggml.scores': expected a score for each token, which say what is merged "
                "first; there is no such key."
            )
        if not np.isfinite(vocabulary.scores).all():
            raise CheckpointError(f"{file.path}, key 'tokenizer.ggml.scores': expected finite numbers.")
