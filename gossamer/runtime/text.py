"""Text in and out: a prompt as tokens, and tokens as pieces of text while they come.

Joined, the pieces are what decoding all tokens at once gives, whatever the tokenizer: a piece is only given out when no
later token can change it. What can:
    a character of several tokens        byte-level BPE decodes what is incomplete as U+FFFD
    bytes of a SentencePiece vocabulary  a run of them is decoded as a whole, and is all U+FFFD if one of them is wrong
    spaces                               the first of a text is dropped: no piece is decoded without the one before
    tidied spaces                        transformers' `clean_up_tokenization`, of WordPiece tokenizers
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gossamer.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
TIDY_REACH = 32
"""Characters: the patterns of `clean_up_tokenization`, which work on each other's results, are shorter together."""


# ---- in -----------------------------------------------------------------------------------------------------


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    *,
    raw: bool = False,
    add_start: bool = False,
    where: str = "the model",
) -> list[int]:
    """Return the tokens of a prompt; with a chat template the prompt is a user's message.

    Control tokens that the prompt spells are read as such.

    Args:
        raw: take the prompt as it is, whether there is a template or not.
        add_start: what the tokenizer adds goes around a template's text too, as llama.cpp has it. transformers leaves
            that to the template.
        where: the model's name, for errors.

    Raises:
        UsageError: the prompt is empty. CheckpointError: the template cannot be used.
    """
    templated = bool(getattr(tokenizer, "chat_template", None)) and not raw
    text = _templated(tokenizer, prompt, where) if templated else prompt
    ids = list(tokenizer(text, add_special_tokens=add_start or not templated, verbose=False)["input_ids"])
    start = tokenizer.bos_token_id
    if start is not None and ids[:2] == [start, start] and text.startswith(tokenizer.bos_token):
        del ids[0]  # the text brings the one that the tokenizer adds
    if not ids:
        raise UsageError("the prompt is empty: give at least one word.")
    return ids


def _templated(tokenizer: "PreTrainedTokenizerBase", prompt: str, where: str) -> str:
    """The prompt as a message in the model's template: as text, or as a list of parts where only that is shown."""
    failures: list[Exception] = []
    for make in (str, lambda text: [{"type": "text", "text": text}]):
        try:
            text, other = (_render(tokenizer, make(each)) for each in (prompt, f"{prompt}x"))
        except Exception as error:  # templates are programs that come with the model: they may raise anything
            failures.append(error)
            continue
        if text != other:
            return text
    reason = "it leaves the message out"
    if failures:
        line = getattr(failures[0], "lineno", None)
        reason = (
            f"{type(failures[0]).__name__}{'' if line is None else f' in line {line}'}: {failures[0]!s:.300}"
        )
    raise CheckpointError(
        f"{where}: its chat template cannot be used for this prompt ({reason}). `--raw` gives the model the prompt "
        "without a template."
    )


def _render(tokenizer: "PreTrainedTokenizerBase", content: Any) -> str:
    message = {"role": "user", "content": content}
    rendered: str = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    return rendered


# ---- out ----------------------------------------------------------------------------------------------------


def stream(
    tokenizer: "PreTrainedTokenizerBase",
    tokens: Iterator[int],
    stops: frozenset[int] = frozenset(),
    stop_strings: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the text of `tokens` piece by piece, up to a token of `stops` or one of `stop_strings`, without it.

    Special tokens are left out. Who stops listening ends `tokens` too, if it is a generator.
    """
    try:
        pieces = _decoded(tokenizer, _until(tokens, stops))
        yield from _until_text(pieces, stop_strings) if stop_strings else pieces
    finally:
        getattr(tokens, "close", lambda: None)()


def _until(tokens: Iterator[int], stops: frozenset[int]) -> Iterator[int]:
    for token in tokens:
        if token in stops:
            return
        yield token


def _until_text(pieces: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """Hold back as much as may be the beginning of a stop."""
    held = max(map(len, stops)) - 1
    tail = ""
    for piece in pieces:
        tail += piece
        found = [tail.index(stop) for stop in stops if stop in tail]
        certain = min(found) if found else max(0, len(tail) - held)
        if certain:
            yield tail[:certain]
        if found:
            return
        tail = tail[certain:]
    if tail:
        yield tail


def _decoded(tokenizer: "PreTrainedTokenizerBase", tokens: Iterator[int]) -> Iterator[str]:
    """Yield what is certain of the text."""

    def decode(ids: list[int]) -> str:
        text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    if getattr(tokenizer, "backend_tokenizer", None) is None:
        pieces = _slowly(decode, tokens)
    else:
        pieces = _by_windows(decode, tokenizer.convert_ids_to_tokens, tokens)
    yield from _tidied(tokenizer.clean_up_tokenization, pieces) if _tidies(tokenizer) else pieces


def _by_windows(
    decode: Callable[[list[int]], str], name: Callable[[int], str | None], tokens: Iterator[int]
) -> Iterator[str]:
    """Decode the tokens since the piece before the last; the last piece's are context."""
    window: list[int] = []
    context, shown = 0, ""
    for token in tokens:
        window.append(token)
        if not decode([token]) or BYTE.fullmatch(name(token) or ""):
            continue  # a run of bytes may go on; a token without a text of its own does not end it
        text = decode(window)
        if text.endswith(UNFINISHED) or len(text) <= len(shown):
            continue
        yield text[len(shown) :]
        window = window[context:]
        context, shown = len(window), decode(window)
    if rest := decode(window)[len(shown) :]:
        yield rest


def _slowly(decode: Callable[[list[int]], str], tokens: Iterator[int]) -> Iterator[str]:
    """For tokenizers written in Python, which may do anything: all anew, a token behind."""
    ids: list[int] = []
    text, shown = "", 0
    for token in tokens:
        ids.append(token)
        before, text = text, decode(ids)
        certain = next(
            (i for i, (a, b) in enumerate(zip(before, text, strict=False)) if a != b),
            min(len(before), len(text)),
        )
        if certain > shown:
            yield text[shown:certain]
            shown = certain
    if text[shown:]:
        yield text[shown:]


def _tidies(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether `decode` tidies spaces: if the tokenizer says so and is no BPE, or is to be tidied even so."""
    if not tokenizer.clean_up_tokenization_spaces:
        return False
    backend = getattr(tokenizer, "backend_tokenizer", None)
    forced = getattr(
        tokenizer, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", True
    )
    return type(getattr(backend, "model", None)).__name__ != "BPE" or bool(forced)


def _tidied(tidy: Callable[[str], str], pieces: Iterator[str]) -> Iterator[str]:
    """Tidy line by line: no pattern goes over a line's end."""
    line, shown = "", 0
    for piece in pieces:
        *whole, rest = (line + piece).split("\n")
        done = "".join(tidy(each) + "\n" for each in whole)
        line = rest
        certain = max(0, len(tidy(line)) - TIDY_REACH)
        if whole:
            yield done[shown:] + tidy(line)[:certain]
        elif certain > shown:
            yield tidy(line)[shown:certain]
        shown = certain if whole else max(shown, certain)
    if rest := tidy(line)[shown:]:
        yield rest
