"""How a text is written: what the caller asks for, then what the model says, then what changes nothing.

One place decides it for every engine. What a model says is `Source.generation()`: the fields of
generation_config.json, and ids of config.json as it is written. A field is honoured, or has no effect on the text of
one sequence, or is named in `notes`: nothing is left out in silence.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gossamer.errors import CheckpointError, UsageError
from gossamer.runtime.sequence import Sampling

DEFAULT_TOKENS = 128
"""New tokens when neither the caller nor the model says how many."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p")
"""What only matters where tokens are drawn."""
HONOURED = frozenset(
    {
        "eos_token_id",
        "stop_strings",
        "do_sample",
        *SAMPLING,
        "repetition_penalty",
        "max_length",
        "max_new_tokens",
    }
)
# fmt: off
WITHOUT_EFFECT = frozenset({
    "bos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "use_cache",
    "cache_implementation", "cache_config", "max_cache_len", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "return_dict_in_generate", "renormalize_logits", "early_stopping",
    "length_penalty", "prefill_chunk_size", "compile_config", "disable_compile",
    "continuous_batching_config", "low_memory", "is_assistant", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "prompt_lookup_num_tokens",
    "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind",
    "assistant_ensemble_weight", "speculation_type", "use_mtp",
})
# fmt: on
"""About batches, speed, beams (named by `num_beams`), what else is returned, and prompts that are empty."""
ENCODER_DECODER = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
"""Ids that texts of models with an encoder begin and end with; transformers, which runs them, honours these."""
NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "typical_p": 1.0,
    "guidance_scale": 1.0,
    "encoder_repetition_penalty": 1.0,
}
"""Values of fields that are not honoured with which they do nothing; of all others: null, 0, false and empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the caller asks for; None: as the model says."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How one text is written."""

    sampling: Sampling
    max_tokens: int
    stops: frozenset[int]
    """Tokens that end the text and are not part of it."""
    stop_strings: tuple[str, ...]
    """The same as text."""
    notes: tuple[str, ...]
    """What the caller should know: fields that are not honoured, a length that was shortened."""


def settle(
    said: Mapping[str, Any],
    asked: Asked,
    *,
    where: str,
    prompt_tokens: int,
    positions: int | None,
    tokenizer_eos: int | None,
    encoder_decoder: bool = False,
) -> Settings:
    """Return how a text is written.

    Args:
        said: what the model says. asked: what the caller asks for. where: the model's name, for errors.
        prompt_tokens: length of the prompt. positions: that the model has; None: no limit.
        tokenizer_eos: ends the text when nothing else is said to.
        encoder_decoder: prompt and text have positions of their own.

    Raises:
        UsageError: settings out of range, or a prompt or a number of tokens that the model has no positions for.
        CheckpointError: a field that would be used and cannot be meant.
    """
    notes = []
    if unknown := _not_honoured(said, encoder_decoder):
        notes.append(f"generation_config.json: not honoured: {', '.join(unknown)}.")
    sampling, about_sampling = _sampling(said, asked, where)
    room = _room(prompt_tokens, positions, encoder_decoder)
    max_tokens, about_length = _length(
        said, asked, where, 1 if encoder_decoder else prompt_tokens, room, positions
    )
    stops = said.get("eos_token_id") or ([] if tokenizer_eos is None else [tokenizer_eos])
    return Settings(
        sampling=sampling,
        max_tokens=max_tokens,
        stops=frozenset(stops),
        stop_strings=_stop_strings(said, where),
        notes=(*notes, *about_sampling, *about_length),
    )


def _not_honoured(said: Mapping[str, Any], encoder_decoder: bool) -> list[str]:
    known = HONOURED | WITHOUT_EFFECT | set(ENCODER_DECODER if encoder_decoder else ())
    return [
        f"{name} {value!r:.40}"
        for name, value in said.items()
        if name not in known and not name.startswith("_") and value and value != NEUTRAL.get(name)
    ]


def _sampling(said: Mapping[str, Any], asked: Asked, where: str) -> tuple[Sampling, list[str]]:
    """Return how tokens are chosen, and what of it has no effect."""
    drawn = said.get("do_sample") is True
    temperature = asked.temperature
    if temperature is None:
        temperature = _number(said, "temperature", 1.0, 0.0, math.inf, where) if drawn else 0.0
    neutral = Sampling()
    chosen = {name: getattr(asked, name) for name in ("top_k", "top_p", "min_p", "repetition_penalty")}
    idle = [f"--{name.replace('_', '-')}" for name in SAMPLING[1:] if chosen[name] is not None]
    for name, low, high in (("top_k", 0, 2**31), ("top_p", 0.0, 1.0), ("min_p", 0.0, 1.0)):
        if chosen[name] is None and temperature > 0:
            chosen[name] = _number(said, name, getattr(neutral, name), low, high, where)
    if chosen["repetition_penalty"] is None:
        chosen["repetition_penalty"] = _number(said, "repetition_penalty", 1.0, 0.0, math.inf, where)
    for name, value in chosen.items():
        chosen[name] = getattr(neutral, name) if value is None else value
    sampling = Sampling(temperature=temperature, seed=asked.seed, **chosen)
    check_sampling(sampling)
    notes = []
    if temperature == 0 and idle:
        notes.append(
            f"{', '.join(idle)}: without effect, the most likely token is always taken (--temperature)."
        )
    elif (
        temperature == 0 and said.get("do_sample") is None and (idle := [n for n in SAMPLING if said.get(n)])
    ):
        notes.append(f"generation_config.json: {', '.join(idle)} without effect, do_sample is not set.")
    return sampling, notes


def check_sampling(sampling: Sampling) -> None:
    """Raise UsageError for settings that cannot be meant."""
    s = sampling
    sound = 0 <= s.temperature < math.inf and s.top_k >= 0 and 0 < s.top_p <= 1 and 0 <= s.min_p <= 1
    if not sound or not 0 < s.repetition_penalty < math.inf:
        raise UsageError(
            "expected temperature >= 0, top-k >= 0, 0 < top-p <= 1, 0 <= min-p <= 1 and repetition-penalty > 0, got "
            f"{s.temperature}, {s.top_k}, {s.top_p}, {s.min_p} and {s.repetition_penalty}."
        )


def _number(said: Mapping[str, Any], name: str, default: Any, low: float, high: float, where: str) -> Any:
    """Return a field that must be a number from `low` to `high`; CheckpointError if it is anything else."""
    value = said.get(name)
    if value is None:
        return default
    if type(value) not in ((int,) if isinstance(default, int) else (int, float)) or not low <= value <= high:
        raise CheckpointError(
            f"{where}/generation_config.json: {name}: expected a number from {low} to {high}, got {value!r:.40}. "
            f"Mend the file, or give --{name.replace('_', '-')}."
        )
    return value


def _room(prompt_tokens: int, positions: int | None, encoder_decoder: bool) -> int | None:
    """New tokens that there are positions for; UsageError when there are none."""
    if positions is None:
        return None
    room = positions - 1 if encoder_decoder else positions - prompt_tokens
    if room < 1 or prompt_tokens > positions:
        raise UsageError(
            f"the prompt's {prompt_tokens} tokens leave no room for new ones in the model's {positions} positions."
        )
    return room


def _length(
    said: Mapping[str, Any], asked: Asked, where: str, before: int, room: int | None, positions: int | None
) -> tuple[int, list[str]]:
    """Return how many new tokens are written at most, and what to say about it.

    `before`: tokens that count towards max_length beside the new ones.
    """
    if asked.max_tokens is not None:
        if asked.max_tokens < 1:
            raise UsageError(f"expected max-tokens >= 1, got {asked.max_tokens}.")
        if room is not None and asked.max_tokens > room:
            raise UsageError(
                f"{asked.max_tokens} new tokens behind the prompt exceed the model's {positions} positions: "
                f"--max-tokens {room} fits."
            )
        return asked.max_tokens, []
    notes = []
    wanted = _number(said, "max_new_tokens", 0, 0, math.inf, where)
    total = _number(said, "max_length", 0, 0, math.inf, where)
    if not wanted and total:
        wanted = max(0, total - before)
        if not wanted:
            notes.append(
                f"generation_config.json: max_length {total} is no longer than the prompt, and not honoured."
            )
    wanted = wanted or DEFAULT_TOKENS
    if room is not None and room < wanted:
        notes.append(f"at most {room} new tokens, not {wanted}: the model has {positions} positions.")
        wanted = room
    return wanted, notes


def _stop_strings(said: Mapping[str, Any], where: str) -> tuple[str, ...]:
    stated = said.get("stop_strings") or []
    listed = [stated] if isinstance(stated, str) else stated
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise CheckpointError(
            f"{where}/generation_config.json: stop_strings: expected text or a list of it, got {stated!r:.60}."
        )
    return tuple(each for each in listed if each)
