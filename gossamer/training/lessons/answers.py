"""What a teacher's answer becomes: the likeliest tokens and the mass of the rest, or random samples.

Top k: ids and log-probabilities of the k likeliest tokens, and of all others together their mass. The
log-probabilities are stored as levels: equal steps from the likeliest (level 0) to the k-th; what the k weigh
together is one minus the rest, so that nothing else is needed. The rest, a logarithm, and the span are float16.

Samples: ids drawn from the teacher's distribution with replacement, each as often as it was drawn, as targets that
are right in the mean (Anshumann et al. 2025, "Sparse logit sampling", arXiv 2503.16870, section 4: random sampling
KD, here at temperature 1). Top k alone is not: what it leaves out never teaches anything. The entropy of the whole
distribution (float16) turns their cross entropy into a divergence.

T tokens, V entries of the vocabulary, K ids kept of a token.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossamer.errors import FormatError, RunError
from gossamer.evaluation.quality.perplexity import row_chunks
from gossamer.training.lessons.codes import Bits, Code, Ids

SMALL_VOCABULARY = 1 << 16
MOST_AT_50 = 120
"""Bytes of a token at k = 50."""
LARGEST, SMALLEST = float(np.finfo(np.float16).max), float(np.finfo(np.float16).smallest_subnormal)
Kind = Literal["top-k", "samples"]
TOP_K: Kind = "top-k"
SAMPLES: Kind = "samples"
Half = NDArray[np.float16]
Floats = NDArray[np.float32]
Answers = dict[str, NDArray[np.generic]]
"""Arrays by the names that they have in a shard; the first axis is T."""


@dataclass(frozen=True, slots=True)
class Form:
    """What is kept of each answer."""

    kind: Kind
    count: int
    vocabulary: int

    @property
    def code(self) -> Code:
        return Code(self.vocabulary, self.count, self.level_bits)

    @property
    def level_bits(self) -> int:
        """Of each log-probability: 6, or fewer where longer ids would leave a token more than 120 bytes at k = 50."""
        if self.kind == SAMPLES:
            return 0
        beside = 4 + self.id_type().itemsize
        fits = (bits for bits in (6, 5) if Code(self.vocabulary, 50, bits).token_bytes + beside <= MOST_AT_50)
        return next(fits, 4)

    @property
    def id_type(self) -> type[np.unsignedinteger]:
        """Of the token ids of the text."""
        return np.uint16 if self.vocabulary <= SMALL_VOCABULARY else np.uint32

    def layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type in a safetensors header and shape, of one token, of each array of a shard."""
        numbers = ("log_rest", "span") if self.kind == TOP_K else ("entropy",)
        ids = f"U{8 * self.id_type().itemsize}"
        answers = {"code": ("U8", (self.code.token_bytes,)), **dict.fromkeys(numbers, ("F16", ()))}
        return {"ids": (ids, ()), **answers}

    @property
    def token_bytes(self) -> int:
        """All that a token of the text and the lesson on it take."""
        sizes = {"U8": 1, "U16": 2, "F16": 2, "U32": 4}
        return sum(sizes[dtype] * int(np.prod(shape)) for dtype, shape in self.layout().values())


def mixture(logits: Sequence[Tensor], where: str) -> Iterator[Tensor]:
    """Yield chunks of log_probs_TV (float32): of the mean of the teachers' probabilities.

    RunError if a teacher gives NaN or infinite logits; `where` names the teachers.
    """
    for rows in row_chunks(logits[0]):
        parts = [each[rows].float() for each in logits]
        if not all(math.isfinite(bound) for part in parts for bound in part.aminmax()):
            raise RunError(
                f"{where}: the logits are NaN or infinite: the weights are damaged, or too large for this arithmetic."
            )
        chunk = parts[0].log_softmax(-1)
        for part in parts[1:]:
            chunk = torch.logaddexp(chunk, part.log_softmax(-1))
        yield chunk - math.log(len(parts))


def encode(log_probs_TV: Tensor, form: Form, generator: torch.Generator) -> Answers:
    """Return the arrays of the lessons on some tokens. Samples take their random numbers from `generator`."""
    if form.kind == SAMPLES:
        return _encode_samples(log_probs_TV, form, generator)
    return _encode_top_k(log_probs_TV, form)


def _encode_top_k(log_probs_TV: Tensor, form: Form) -> Answers:
    ids_TK = log_probs_TV.topk(form.count, dim=-1).indices.sort(dim=-1).values
    log_probs_TK = log_probs_TV.gather(-1, ids_TK)
    log_rest_T = log_probs_TV.exp().scatter_(-1, ids_TK, 0.0).sum(-1).log()
    top_T = log_probs_TK.amax(-1)
    span_T = (top_T - log_probs_TK.amin(-1)).clamp(max=LARGEST).half()
    step_T1 = (span_T.float() / form.code.levels)[:, None].clamp(min=1e-30)
    levels_TK = ((top_T[:, None] - log_probs_TK) / step_T1).round().clamp(0, form.code.levels)
    code = form.code.encode(ids_TK.numpy(), levels_TK.long().numpy())
    if form.count < form.vocabulary:
        log_rest_T = log_rest_T.clamp(
            min=-LARGEST, max=-SMALLEST
        )  # both parts weigh something, in float16 too
    return {"code": code, "log_rest": log_rest_T.half().numpy(), "span": span_T.numpy()}


def _encode_samples(log_probs_TV: Tensor, form: Form, generator: torch.Generator) -> Answers:
    probs_TV = log_probs_TV.exp()
    entropy_T = -(probs_TV * log_probs_TV).sum(-1).clamp(max=0)
    below_TV = probs_TV.cumsum(-1, dtype=torch.float64)
    shape = (len(probs_TV), form.count)
    place_TK = torch.rand(shape, dtype=torch.float64, generator=generator) * below_TV[:, -1:]
    drawn_TK = torch.searchsorted(below_TV, place_TK, right=True).clamp(max=form.vocabulary - 1)
    return {"code": form.code.encode(drawn_TK.sort(-1).values.numpy()), "entropy": entropy_T.half().numpy()}


def decode_top_k(form: Form, code_TB: Bits, log_rest_T: Half, span_T: Half) -> tuple[Ids, Floats, Floats]:
    """Return (ids_TK, log_probs_TK, log_rest_T); FormatError for what `encode` never gives."""
    ids_TK, levels_TK = form.code.decode(code_TB)
    rest_T, wide_T = log_rest_T.astype(np.float64), span_T.astype(np.float64)
    if bool((np.diff(ids_TK, axis=1) == 0).any()):
        raise FormatError("expected different token ids, got the same one twice.")
    whole = np.isneginf(rest_T) if form.count == form.vocabulary else np.isfinite(rest_T) & (rest_T < 0)
    if not bool((whole & np.isfinite(wide_T) & (wide_T >= 0)).all()):
        raise FormatError("expected masses of the rest between 0 and 1, and finite spans; got others.")
    below_TK = -levels_TK * (wide_T / form.code.levels)[:, None]
    log_kept_T = np.log(-np.expm1(rest_T)) - np.log(np.exp(below_TK).sum(axis=1))
    return ids_TK, (below_TK + log_kept_T[:, None]).astype(np.float32), rest_T.astype(np.float32)


def decode_samples(form: Form, code_TB: Bits, entropy_T: Half) -> tuple[Ids, Floats]:
    """Return (ids_TK, entropy_T); FormatError for what `encode` never gives."""
    if not bool((np.isfinite(entropy_T) & (entropy_T >= 0)).all()):
        raise FormatError("expected finite entropies of at least 0, got others.")
    return form.code.decode(code_TB)[0], entropy_T.astype(np.float32)
