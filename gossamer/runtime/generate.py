"""Write text with a model, token by token: on the native engine, or through transformers' own generation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from transformers import TextIteratorStreamer

from gossamer.checkpoint.loading import Loaded, load
from gossamer.checkpoint.source import open_model
from gossamer.errors import RunError, UsageError
from gossamer.runtime.choose import DEFAULT_ACTIVATIONS, choose_engine
from gossamer.runtime.engine import Engine, Sampling


@dataclass(frozen=True, slots=True)
class Writing:
    """A text that is being written, and what writes it."""

    engine: str
    activations: str
    pieces: Iterator[str]


def write(
    path: str | Path, prompt: str, *, engine: str = "auto", activations: str | None = None, **settings: Any
) -> Writing:
    """Continue `prompt` with the model at `path`; `settings` are those of `generate`.

    Args:
        engine: "native", "torch", or "auto": native where the family has a plan.
        activations: "float" or "int8"; default: int8 on the native engine, else float.

    Raises:
        GossamerError: as `generate`, or a model that cannot be read.
    """
    engine = choose_engine(path, engine)
    activations = activations or DEFAULT_ACTIVATIONS[engine]
    if engine == "torch":
        return Writing(engine, activations, generate(load(path, activations=activations), prompt, **settings))
    tokenizer = open_model(path).tokenizer()
    native = Engine.open(path, activations=activations)
    return Writing(engine, activations, generate_native(native, tokenizer, prompt, **settings))


def generate_native(
    engine: Engine,
    tokenizer: Any,
    prompt: str,
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
) -> Iterator[str]:
    """Yield the continuation of `prompt` as `generate` does, from the native engine.

    Raises UsageError for no tokenizer, an empty or too long prompt, or settings out of range.
    """
    if tokenizer is None:
        raise UsageError(f"{engine.where}: the model has no tokenizer for the prompt.")
    _check_settings(max_tokens, temperature, top_k, top_p)
    ids = _encode(tokenizer, prompt)["input_ids"][0]
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return _pieces(
        tokenizer, engine.generate(ids, max_tokens, sampling=sampling, stops=_ends(engine, tokenizer))
    )


def _ends(engine: Engine, tokenizer: Any) -> list[int]:
    """The tokens that end a text."""
    ends: set[int] = set()
    for source in (tokenizer, engine.config, engine.generation_config):
        found = getattr(source, "eos_token_id", None)
        ends.update(each for each in (found if isinstance(found, list) else [found]) if isinstance(each, int))
    return sorted(ends)


def _pieces(tokenizer: Any, tokens: Iterator[int]) -> Iterator[str]:
    """Decode token by token; what is not yet a whole character waits."""
    window: list[int] = []
    shown = ""
    for token in tokens:
        window.append(token)
        text = tokenizer.decode(window, skip_special_tokens=True)
        if text.endswith("\ufffd"):
            continue
        if len(text) > len(shown):
            yield text[len(shown) :]
        shown = text
        if text.endswith("\n"):  # a new line depends on nothing before it
            window, shown = [], ""
    rest = tokenizer.decode(window, skip_special_tokens=True)[len(shown) :]
    if rest:
        yield rest


def _check_settings(max_tokens: int, temperature: float, top_k: int, top_p: float) -> None:
    if max_tokens < 1 or not 0 <= temperature < math.inf or top_k < 0 or not 0 < top_p <= 1:
        raise UsageError(
            "expected max-tokens >= 1, temperature >= 0, top-k >= 0 and 0 < top-p <= 1, got "
            f"{max_tokens}, {temperature}, {top_k} and {top_p}."
        )


def generate(
    loaded: Loaded,
    prompt: str,
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
) -> Iterator[str]:
    """Yield the continuation of `prompt` piece by piece; with a chat template the prompt is a user's message.

    Args:
        max_tokens: at most so many new tokens.
        temperature: 0 = always the most likely token.
        top_k: sample among the k most likely tokens; 0 = all.
        top_p: sample among the fewest tokens of that total probability.
        seed: makes sampling repeatable.

    Raises:
        UsageError: not a text generator, an empty or too long prompt, or settings out of range.
    """
    model, tokenizer = loaded
    if tokenizer is None or not model.can_generate() or model.main_input_name != "input_ids":
        raise UsageError(f"{type(model).__name__} does not generate text from a prompt.")
    _check_settings(max_tokens, temperature, top_k, top_p)
    inputs = _encode(tokenizer, prompt)
    _check_length(model, inputs["input_ids"].shape[1], max_tokens)
    settings: dict[str, Any] = {"do_sample": temperature > 0}
    if temperature > 0:
        settings |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    else:
        settings |= {"temperature": None, "top_k": None, "top_p": None}
    if seed is not None:
        torch.manual_seed(seed)
    return _stream(model, tokenizer, inputs, {**settings, "max_new_tokens": max_tokens})


def _encode(tokenizer: Any, prompt: str) -> dict[str, torch.Tensor]:
    if getattr(tokenizer, "chat_template", None):
        message = [{"role": "user", "content": prompt}]
        encoded = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        encoded = tokenizer(prompt, return_tensors="pt")
    if not encoded["input_ids"].numel():
        raise UsageError("the prompt is empty: give at least one word.")
    return {key: encoded[key] for key in ("input_ids", "attention_mask") if key in encoded}


def _check_length(model: Any, prompt_tokens: int, max_tokens: int) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and prompt_tokens + max_tokens > limit:
        raise UsageError(
            f"{prompt_tokens} tokens of prompt and {max_tokens} new ones exceed the model's {limit} positions."
        )


def _stream(
    model: Any, tokenizer: Any, inputs: dict[str, torch.Tensor], settings: dict[str, Any]
) -> Iterator[str]:
    """Run the generation in a thread of its own and yield what it writes as it comes.

    Whoever stops listening stops the thread too, after the token that it is at.
    """
    stopped = Event()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with torch.inference_mode():
                model.generate(
                    **inputs, **settings, streamer=streamer, pad_token_id=_pad(tokenizer),
                    stopping_criteria=[lambda ids, _scores: torch.full((len(ids),), stopped.is_set())],
                )  # fmt: skip
        except BaseException as error:
            failures.append(error)
            streamer.end()

    thread = Thread(target=run, name="gossamer-generate", daemon=True)
    thread.start()
    try:
        yield from streamer
    finally:
        stopped.set()
        thread.join()
    if failures:
        raise RunError(f"generation failed: {failures[0]}") from failures[0]


def _pad(tokenizer: Any) -> int | None:
    pad = tokenizer.pad_token_id
    return tokenizer.eos_token_id if pad is None else pad
