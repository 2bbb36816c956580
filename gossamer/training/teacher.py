"""Who teaches: what a student's predictions are held to.

A teacher gives an answer for some windows of text. An answer knows how far predictions are from it, whatever it is
itself: the logits of a dense parent here, or stored lessons.

B windows of L tokens, T = B L tokens, V entries of the vocabulary.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gossamer.calibration.observe import main_output
from gossamer.evaluation.kept import KeptModel
from gossamer.runtime.choose import choose_engine
from gossamer.runtime.engine import Engine
from gossamer.training.divergence import divergence
from gossamer.training.precision import mixed_precision

KEPT_BYTES = 1 << 30
"""Of the outputs of a parent's last block: half a million tokens of 576 numbers."""


class Answer(Protocol):
    """What a teacher says of some windows. V entries of the vocabulary, or numbers of an embedding."""

    @property
    def hidden(self) -> Sequence[Tensor]:
        """The outputs of its layers [B, L, D], of the embedding first; empty where they were not asked for."""

    def divergence(self, logits_TV: Tensor, weight_T: Tensor, temperature: float) -> Tensor:
        """Return temperature^2 * sum over T of weight * KL(teacher || student), in nats, both at the temperature; of an
        encoder without a head, how far its embeddings are (`HiddenAnswer`).

        It has a gradient for what it is given, and is to be asked for once.
        """


class Teacher(Protocol):
    """Who answers."""

    def answer(self, numbers: Sequence[int], ids_BL: Tensor, *, hidden: bool = False) -> Answer:
        """Return the answer for windows; `numbers` says which of the training text they are."""

    def record(self) -> dict[str, Any]:
        """Return who it is, ready for JSON."""


class DenseTeacher:
    """The dense parent, run by transformers whenever it is asked.

    An answer costs its head alone from the second time on, as far as KEPT_BYTES hold what its blocks returned. Answers
    for windows of `judged` are exact (float32); others are products in `dtype`, or come from the native engine with
    int8 activations, if that is opened for windows of `native` tokens.
    """

    def __init__(
        self,
        parent: str | Path,
        judged: Collection[int] = (),
        *,
        native: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """UnsupportedModelError if the native engine is asked for and has no plan for this family."""
        if native is not None:
            choose_engine(parent, "native")
        self._engine = (
            None if native is None else Engine.open(parent, activations="int8", cache_tokens=native)
        )
        self._kept = KeptModel(parent, KEPT_BYTES)
        self._judged, self._dtype = frozenset(judged), dtype
        self.model = self._kept.model
        self.model.config.use_cache = False

    def answer(self, numbers: Sequence[int], ids_BL: Tensor, *, hidden: bool = False) -> Answer:
        with torch.no_grad():
            if self._judged.issuperset(numbers) and not hidden:
                return _answer(self._kept(ids_BL))
            if self._engine is not None and not hidden:
                return DenseAnswer(torch.stack([self._engine.logits(ids_L) for ids_L in ids_BL]), ())
            with mixed_precision(self._dtype):
                if not hidden:
                    return _answer(self._kept(ids_BL))
                output = self.model(ids_BL, output_hidden_states=True)
        return _answer(output, output.hidden_states)

    def record(self) -> dict[str, Any]:
        engine = "torch" if self._engine is None else "native, int8 activations"
        return {"kind": "dense parent", "name": Path(self._kept.path).name, "engine": engine}


def _answer(output: Any, hidden: Sequence[Tensor] = ()) -> Answer:
    return (DenseAnswer if hasattr(output, "logits") else HiddenAnswer)(main_output(output), hidden)


class DenseAnswer:
    """Logits for the whole vocabulary."""

    def __init__(self, logits_BLV: Tensor, hidden: Sequence[Tensor]) -> None:
        self._logits_TV: Tensor | None = logits_BLV.flatten(0, 1)
        self.hidden = hidden

    def divergence(self, logits_TV: Tensor, weight_T: Tensor, temperature: float) -> Tensor:
        assert self._logits_TV is not None, "the logits are used up"
        teacher_TV, self._logits_TV = self._logits_TV, None
        return divergence(logits_TV, teacher_TV, weight_T, temperature)


class HiddenAnswer:
    """The last hidden states of an encoder without a head.

    The distance from them is |h - h_t|^2 / |h_t|^2, both as weighted sums over the tokens. It has no temperature.
    """

    def __init__(self, wanted_BLD: Tensor, hidden: Sequence[Tensor]) -> None:
        self._wanted_TD, self.hidden = wanted_BLD.flatten(0, 1).float(), hidden

    def divergence(self, logits_TV: Tensor, weight_T: Tensor, temperature: float) -> Tensor:
        error_T = (logits_TV.float() - self._wanted_TD).square().sum(1)
        return (weight_T @ error_T) / (weight_T @ self._wanted_TD.square().sum(1)).clamp_min(1e-12)
