"""One round of a speed measurement: read a prompt, then decode greedily, through plain calls of the model.

The loop is written out here, and is the same for every model: `model(input_ids=..., use_cache=True,
cache=...)`, the largest logit is the next token, end-of-text tokens do not end it. As in transformers'
`generate`, only the last position's logits are asked for where the model can do that.

T tokens of the prompt, V entries of the vocabulary.
"""

import inspect
import time
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from gossamer.data.samples import returned_cache
from gossamer.errors import RunError, UsageError

DECODER, ENCODER, ENCODER_DECODER = "decoder", "encoder", "encoder-decoder"


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of one round; `decode` is None for an encoder."""

    prefill: float
    decode: float | None


@runtime_checkable
class OwnRounds(Protocol):
    """A model that does not run through calls of transformers, and so runs its rounds itself."""

    config: PretrainedConfig
    """With `get_text_config()`, as configurations of transformers have it."""
    kind: str
    weight_bytes_per_token: int

    def eval(self) -> Self: ...

    def run_round(self, ids_1T: Tensor, tokens: int) -> Round:
        """Read the prompt, then decode `tokens` tokens."""


Runner: TypeAlias = PreTrainedModel | OwnRounds
"""What can be timed."""


def kind_of(model: Runner) -> str:
    """Return how a model is run: "decoder", "encoder" or "encoder-decoder"."""
    if isinstance(model, OwnRounds):
        return model.kind
    if getattr(model.config, "is_encoder_decoder", False):
        return ENCODER_DECODER
    can_generate = getattr(model, "can_generate", None)
    return DECODER if can_generate is not None and can_generate() else ENCODER


def check_prompt(model: Runner, ids_1T: Tensor, tokens: int) -> None:
    """Refuse prompts that the model cannot take.

    Raises UsageError for an empty prompt, an id outside the vocabulary, or more tokens than it has positions.
    """
    text = model.config.get_text_config()
    length, limit = ids_1T.shape[1], getattr(text, "max_position_embeddings", None)
    if length < 1 or tokens < 1:
        raise UsageError(f"expected at least 1 prompt token and 1 decoded token, got {length} and {tokens}")
    if int(ids_1T.max()) >= text.vocab_size or int(ids_1T.min()) < 0:
        raise UsageError(f"prompt: token ids must be from 0 to {text.vocab_size - 1}, the model's vocabulary")
    needed = length + tokens if kind_of(model) == DECODER else length
    if limit is not None and needed > limit:
        raise UsageError(
            f"prompt and tokens: {needed} positions needed, the model has {limit}. Ask for fewer of either."
        )
    if isinstance(model, OwnRounds):
        return
    if "input_ids" not in inspect.signature(model.forward).parameters:
        raise UsageError(f"{type(model).__name__} does not take text, so that its speed cannot be measured.")


@torch.inference_mode()
def run_round(model: Runner, ids_1T: Tensor, tokens: int) -> Round:
    """Read the prompt and decode `tokens` tokens.

    Raises RunError when the model's output is not finite: a broken model is not worth timing.
    """
    if isinstance(model, OwnRounds):
        return model.run_round(ids_1T, tokens)
    kind = kind_of(model)
    if kind == ENCODER:
        started = time.perf_counter()
        hidden = model(input_ids=ids_1T)[0]
        seconds = time.perf_counter() - started
        _check_finite(model, hidden)
        return Round(seconds, None)
    started = time.perf_counter()
    name, extra = "input_ids", _last_logits_only(model)
    first_ids = ids_1T
    if kind == ENCODER_DECODER:
        name, extra["encoder_outputs"] = "decoder_input_ids", model.get_encoder()(input_ids=ids_1T)
        start = model.config.decoder_start_token_id
        first_ids = torch.full((1, 1), 0 if start is None else start)
    outputs = model(**{name: first_ids}, use_cache=True, **extra)
    next_11 = outputs.logits[:, -1:].argmax(-1)
    prefill = time.perf_counter() - started
    _check_finite(model, outputs.logits)
    cache = returned_cache(outputs)
    if not cache:
        raise RunError(
            f"{type(model).__name__} returns no cache of keys and values; decoding cannot be timed."
        )
    started = time.perf_counter()
    for _ in range(tokens):
        outputs = model(**{name: next_11}, use_cache=True, **cache, **extra)
        next_11 = outputs.logits[:, -1:].argmax(-1)
    decode = time.perf_counter() - started
    _check_finite(model, outputs.logits)
    return Round(prefill, decode)


def _last_logits_only(model: PreTrainedModel) -> dict[str, Any]:
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def _check_finite(model: PreTrainedModel, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise RunError(
            f"{type(model).__name__}: the output holds NaN or infinity, so its speed means nothing."
        )
