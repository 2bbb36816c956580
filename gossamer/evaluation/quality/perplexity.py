"""Perplexity of a causal model, with a signature that says exactly what was measured.

Protocol of GPTQ, SparseGPT and Wanda (Frantar et al. 2022, arXiv 2210.17323): full windows of L tokens of one
stream, the mean cross entropy of the L - 1 predictions inside each, perplexity = exp(mean). Their code
multiplies that mean by L and divides by L again; nothing else differs. With overlapping windows (stride < L)
only tokens that no earlier window has scored count, with at least L - stride tokens of context (Baevski and
Auli 2018, arXiv 1809.10853, section 4.3).

Every window opens with the start token where the tokenizer adds one, in the place of the window's first token,
as in the perplexity tool of llama.cpp; it is never a target.

Bits per byte = sum of the cross entropies in bits / bytes of UTF-8 that the scored tokens stand for. It is
the one figure that may be compared across tokenizers.

Shapes: N windows, L tokens in a window, P predictions that count, V entries of the vocabulary. Memory: one
window's logits as the model gives them; softmax in float32 over `CHUNK_BYTES` at a time.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from gossamer.data.tokens import SEPARATOR, Windows
from gossamer.errors import UsageError
from gossamer.progress import Count

CHUNK_BYTES = 16 << 20
"""Float32 logits in one chunk; the softmax holds about three such arrays at once."""

Predictor: TypeAlias = Callable[..., Any]
"""A transformers model or what looks like one (`NativeModel`), or a function from ids_BL (int64) to logits_BLV."""

SIGNATURE_VERSION = 1


@dataclass(frozen=True, slots=True)
class PerplexityResult:
    """What was measured, and its signature."""

    perplexity: float
    bits_per_byte: float
    nll: list[float]
    """Mean cross entropy in nats of each window."""
    tokens_per_window: list[int]
    """Predictions that count in each window."""
    signature: str

    @property
    def tokens(self) -> int:
        return sum(self.tokens_per_window)


def perplexity(model: Predictor, windows: Windows, progress: Count | None = None) -> PerplexityResult:
    """Measure a causal model on `windows`.

    Raises UsageError when a token id lies outside the model's vocabulary, or the logits have another shape.
    """
    nll: list[float] = []
    with scoring(model):
        for index in range(len(windows)):
            logits_PV, target_P = scored_logits(model, windows, index)
            nll.append(float(cross_entropy(logits_PV, target_P).double().mean()))
            if progress is not None:
                progress(index + 1, len(windows))
    return summarise(nll, windows, model)


def summarise(nll: list[float], windows: Windows, model: Predictor) -> PerplexityResult:
    """Put the mean cross entropies of the windows together."""
    counts = [windows.length - first_scored(windows, index) for index in range(len(windows))]
    total = math.fsum(mean * count for mean, count in zip(nll, counts, strict=True))
    num_bytes = sum(
        int(windows.bytes_NL[index, first_scored(windows, index) :].sum()) for index in range(len(windows))
    )
    mean = total / sum(counts)
    return PerplexityResult(
        perplexity=math.inf if mean > 700 else math.exp(mean),
        bits_per_byte=total / math.log(2) / num_bytes if num_bytes else math.nan,
        nll=nll,
        tokens_per_window=counts,
        signature=signature(windows, dtype_name(model)),
    )


def signature(windows: Windows, dtype: str) -> str:
    """For example
    `ppl|d:wiki:1a2b3c4d|join:\\n\\n|bos:0|L:1024|stride:1024|N:64|tail:drop|red:seqlen-1|dtype:f32|v:1`.

    d: name of the text and SHA-256 (8 digits) of the token ids; bos: "each" if every window opens with what the
    tokenizer puts in front, 0 if that is nothing; N: windows; red: predictions counted in a window.
    """
    skipped = max(1, len(windows.start))
    counted = f"seqlen-{skipped}" if windows.stride >= windows.length - skipped else "stride"
    fields = {
        "d": f"{windows.name}:{windows.sha8}",
        "join": SEPARATOR.replace("\n", "\\n"),
        "bos": "each" if windows.start else 0,
        "L": windows.length,
        "stride": windows.stride,
        "N": len(windows),
        "tail": "drop",
        "red": counted,
        "dtype": dtype,
        "v": SIGNATURE_VERSION,
    }
    return "ppl|" + "|".join(f"{name}:{value}" for name, value in fields.items())


_DTYPE_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16", torch.float64: "f64"}


def dtype_name(model: Predictor) -> str:
    """The type in which the model computes."""
    dtype = getattr(model, "dtype", torch.float32)
    return _DTYPE_NAMES.get(dtype, str(dtype).removeprefix("torch."))


@contextmanager
def scoring(*models: Predictor) -> Iterator[None]:
    """Run the body without gradients and with dropout off; put the models back as they were."""
    training = [model for model in models if isinstance(model, nn.Module) and model.training]
    for model in training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for model in training:
            model.train()


def first_scored(windows: Windows, index: int) -> int:
    """The first position of the window whose token counts: the one behind the first token and the start tokens, or
    the first that earlier windows have not seen."""
    first = max(1, len(windows.start))
    return first if index == 0 else max(first, windows.length - windows.stride)


def scored_logits(model: Predictor, windows: Windows, index: int) -> tuple[Tensor, Tensor]:
    """Return (logits_PV, target_P) of the predictions of one window that count, on the model's device."""
    ids_L = windows.ids_NL[index].to(getattr(model, "device", "cpu"))
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    if vocabulary is not None and int(ids_L.max()) >= vocabulary:
        raise UsageError(
            f"{windows.name}: token {int(ids_L.max())} lies outside the model's vocabulary of {vocabulary}. "
            "Tokenise the text with the model's own tokenizer."
        )
    output = model(ids_L[None], use_cache=False) if hasattr(model, "config") else model(ids_L[None])
    logits_BLV: Tensor = output.logits if hasattr(output, "logits") else output
    if logits_BLV.ndim != 3 or logits_BLV.shape[:2] != (1, windows.length):
        raise UsageError(
            f"perplexity: expected logits of shape (1, {windows.length}, vocabulary), "
            f"got {tuple(logits_BLV.shape)}. Only causal language models can be measured so."
        )
    first = first_scored(windows, index)
    return logits_BLV[0, first - 1 : -1], ids_L[first:]


def row_chunks(logits_PV: Tensor, size_bytes: int | None = None) -> Iterator[slice]:
    """Slices of rows that hold about so much, or `CHUNK_BYTES`, in float32 each."""
    num_rows, num_entries = logits_PV.shape
    step = max(1, (size_bytes or CHUNK_BYTES) // (4 * num_entries))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def cross_entropy(logits_PV: Tensor, target_P: Tensor) -> Tensor:
    """Return nll_P (float32, nats): minus the log probability of each target."""
    parts = [
        nn.functional.cross_entropy(logits_PV[rows].float(), target_P[rows], reduction="none")
        for rows in row_chunks(logits_PV)
    ]
    return torch.cat(parts)
