"""What a model is shown of a window, and which of its answers count: by the kind of the model.

    causal       the tokens as they are; the prediction of each next one
    masked       some tokens masked, by a seed the same for teacher and student; the predictions at their places
    embeddings   the tokens as they are; the last hidden state of each

B windows of L tokens, T = B L tokens, V entries of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from gossamer.checkpoint.source import Source
from gossamer.errors import UsageError

Kind = Literal["causal", "masked", "embeddings"]
MASKED = 0.15
"""Of the tokens of a window (Devlin et al. 2018, arXiv 1810.04805, section 3.1; here all of them by the mask token)."""


@dataclass(frozen=True)
class Shown:
    """How windows are shown, and what is asked."""

    kind: Kind = "causal"
    first: int = 1
    """The first position in a window whose token is predicted: behind the start tokens."""
    mask_token: int = -1
    frame: tuple[int, int] | None = None
    """[CLS] and [SEP], which are at the ends of a window, and never masked."""
    seed: int = 0

    @property
    def measure(self) -> str:
        """The name of what a teacher's answer says of a student's: of the key in a record."""
        return "error" if self.kind == "embeddings" else "kl"

    @property
    def title(self) -> str:
        return "error of the embeddings" if self.kind == "embeddings" else "KL"

    def framed(self, ids_NL: Tensor) -> Tensor:
        """Return windows with the frame in the places of their first and last tokens."""
        if self.frame is not None:
            ids_NL = ids_NL.clone()
            ids_NL[:, 0], ids_NL[:, -1] = self.frame
        return ids_NL

    def ids(self, numbers: Sequence[int], ids_BL: Tensor) -> Tensor:
        """Return what the model is shown of the windows of these numbers."""
        return (
            ids_BL
            if self.kind != "masked"
            else ids_BL.masked_fill(self._masked(numbers, ids_BL), self.mask_token)
        )

    def weights(self, numbers: Sequence[int], ids_BL: Tensor) -> Tensor:
        """Return the share of each position in a mean over those that count, [T]."""
        if self.kind == "masked":
            weight_BL = self._masked(numbers, ids_BL).float()
        else:
            weight_BL = torch.ones(ids_BL.shape)
        if self.kind == "causal":
            weight_BL[:, : self.first - 1] = weight_BL[:, -1] = 0.0
        return (weight_BL / weight_BL.sum()).flatten()

    def cross_entropy(self, numbers: Sequence[int], ids_BL: Tensor, logits_BLV: Tensor) -> Tensor:
        """Return the mean cross entropy of the text's own tokens where they are predicted, nats; NaN of embeddings."""
        if self.kind == "embeddings":
            return torch.tensor(float("nan"))
        if self.kind == "causal":
            predicted_PV = logits_BLV[:, self.first - 1 : -1].flatten(0, 1).float()
            return functional.cross_entropy(predicted_PV, ids_BL[:, self.first :].flatten())
        masked_BL = self._masked(numbers, ids_BL)
        return functional.cross_entropy(logits_BLV[masked_BL].float(), ids_BL[masked_BL])

    def _masked(self, numbers: Sequence[int], ids_BL: Tensor) -> Tensor:
        """Return which tokens are masked (bool): of each window the same each time, one at the least."""
        length = ids_BL.shape[1]
        inside = slice(1, -1) if self.frame is not None else slice(None)
        masked_BL = torch.zeros(ids_BL.shape, dtype=torch.bool)
        for row, number in enumerate(numbers):
            generator = torch.Generator().manual_seed((self.seed + 1_000_003 * number) % 2**63)
            places = torch.arange(length)[inside]
            order = torch.randperm(len(places), generator=generator)
            masked_BL[row, places[order[: max(1, round(MASKED * len(places)))]]] = True
        return masked_BL


def shown_to(source: Source, first: int, seed: int) -> Shown:
    """Return how windows are shown to this model; `first` as in `Shown`, for a causal one.

    UsageError for a masked language model whose tokenizer has no mask token.
    """
    kind, tokenizer = kind_of(source.reader.skeleton), source.tokenizer()
    if kind == "causal":
        return Shown(first=first)
    start, end = getattr(tokenizer, "cls_token_id", None), getattr(tokenizer, "sep_token_id", None)
    frame = None if start is None or end is None else (start, end)
    mask_token = getattr(tokenizer, "mask_token_id", None)
    if kind == "masked" and mask_token is None:
        raise UsageError(
            f"{source.path}: its tokenizer has no mask token, so that nothing can be asked of it."
        )
    return Shown(kind, mask_token=-1 if mask_token is None else mask_token, frame=frame, seed=seed)


def kind_of(model: PreTrainedModel) -> Kind:
    """Return what a model answers: UsageError for an encoder-decoder, which is not trained here."""
    if model.config.is_encoder_decoder:
        raise UsageError(
            f"{type(model).__name__} is an encoder-decoder: decoders and encoders are trained here, and no encoder-"
            "decoders. Their blocks can be trained in `compress --minutes`."
        )
    if model.can_generate():
        return "causal"
    return "embeddings" if model.get_output_embeddings() is None else "masked"
