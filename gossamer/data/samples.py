"""Samples for calibration: seeded windows of a text, or text that the model itself writes.

The second way needs no data: Liu et al. 2023, "LLM-QAT" (arXiv 2305.17888), section 3.1, samples from the
model's own distribution. Here every sample starts from the start token and is drawn at temperature 1.

Every sample opens with what the tokenizer puts in front of a text, as the windows of an evaluation do.

Shapes: N samples, L tokens in a sample, T tokens of the stream, V entries of the vocabulary.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gossamer.data.tokens import TokenStream, check_ids, open_windows, start_tokens
from gossamer.errors import DataError, UsageError
from gossamer.progress import Count

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def sample(stream: TokenStream, num_samples: int, length: int, seed: int = 0) -> Tensor:
    """Return ids_NL (int64): `num_samples` windows of the stream at random places that do not overlap.

    The stream is cut into windows behind a random offset, of which a random choice is taken in random order;
    the same stream and seed always give the same samples. The stream's start tokens take the place of the first
    tokens of each.

    Raises DataError when the text is too short, UsageError for a number or length below 1.
    """
    _check_counts(num_samples, length, len(stream.start) + 1)
    num_tokens = len(stream)
    if num_tokens < num_samples * length:
        raise DataError(
            f"{stream.name}: {num_samples} samples of {length} tokens need {num_samples * length:,} tokens, "
            f"the text has {num_tokens:,}. Give more text, or take at most "
            f"{num_tokens // length} samples of this length."
        )
    generator = torch.Generator().manual_seed(seed)
    num_slots = num_tokens // length
    offset = int(torch.randint(num_tokens - num_slots * length + 1, (1,), generator=generator))
    slot_N = torch.randperm(num_slots, generator=generator)[:num_samples]
    ids_NL = stream.ids_T[offset:].unfold(0, length, length)[slot_N].clone()
    open_windows(ids_NL, stream.start)
    return ids_NL


def _check_counts(num_samples: int, length: int, shortest: int = 1) -> None:
    if num_samples < 1 or length < shortest:
        raise UsageError(
            f"samples: expected at least 1 sample of at least {shortest} tokens, got {num_samples} of {length}."
        )


def fingerprint(source: str, ids: Tensor, settings: Mapping[str, object] | None = None) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of where the tokens come from, the settings, their shape and
    values."""
    header = json.dumps(
        {"source": source, "shape": list(ids.shape), "settings": dict(settings or {})}, sort_keys=True
    )
    digest = hashlib.sha256(header.encode())
    digest.update(ids.to(torch.int64).contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def self_samples(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    num_samples: int,
    length: int,
    seed: int = 0,
    *,
    batch_size: int = 16,
    progress: Count | None = None,
) -> Tensor:
    """Return ids_NL (int64) that a causal transformers model draws from its own distribution at temperature
    1.

    Every sample opens with what the tokenizer puts in front of a text; if that is nothing, with the
    beginning-of-sequence token (or the end-of-sequence token where there is none). The same model, seed and batch
    size always give the same samples. `progress` counts tokens of all samples. The samples are ordinary tensors,
    through which gradients may be taken (not those of an inference mode).

    Raises DataError when the model has no start token, no room for `length` tokens, or gives NaN.
    """
    start = start_tokens(tokenizer)
    if not start:
        first = start_token(model.config, tokenizer)
        if first is None:
            raise DataError(
                "samples from the model: it has neither a beginning nor an end token. Give calibration text."
            )
        start = (first,)
    _check_counts(num_samples, length, len(start))
    vocabulary = model.config.get_text_config().vocab_size
    check_ids(torch.tensor(start), vocabulary, tokenizer, "samples from the model")
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and length > room:
        raise DataError(f"samples from the model: {length} tokens asked, the model has positions for {room}.")
    generator = torch.Generator().manual_seed(seed)
    batches: list[Tensor] = []
    for first in range(0, num_samples, batch_size):
        size = min(batch_size, num_samples - first)
        ids_NL = torch.zeros((size, length), dtype=torch.int64)
        open_windows(ids_NL, start)
        cache: dict[str, Any] = {}
        for position in range(1, length):
            output = model(input_ids=ids_NL[:, position - 1 : position], use_cache=True, **cache)
            cache = returned_cache(output)
            if position < len(start):
                continue
            logits_NV = output.logits[:, -1].float()
            if not torch.isfinite(logits_NV.amax(dim=-1)).all():
                raise DataError(
                    "samples from the model: it gives NaN or infinite logits. Give calibration text instead."
                )
            ids_NL[:, position] = torch.multinomial(logits_NV.softmax(-1), 1, generator=generator)[:, 0]
            if progress is not None:
                progress(first * (length - 1) + size * position, num_samples * (length - 1))
        batches.append(ids_NL)
    return torch.cat(batches)


def returned_cache(output: Any) -> dict[str, Any]:
    """Return {name: keys and values} of a transformers model's output, to be passed to its next call by that name.

    The name is `cache` from transformers 5.24 on, and `past_key_values` before. Empty where the model keeps none.
    """
    return {name: value for name, value in output.items() if name in ("cache", "past_key_values")}


def start_token(config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Return the beginning-of-sequence token, or where there is none the end-of-sequence token; None without both."""
    for owner in (tokenizer, config):
        for name in ("bos_token_id", "eos_token_id"):
            token = getattr(owner, name, None)
            if isinstance(token, list):
                token = token[0] if token else None
            if token is not None:
                return int(token)
    return None
