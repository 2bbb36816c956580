"""What a run holds of each matrix while the steps of a recipe are applied to it, and what it reports afterwards.

O output features, I input features.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gossamer.calibration.statistics import Gram, Moments, Statistic
from gossamer.compression.preview import Steps
from gossamer.errors import GossamerError
from gossamer.methods.reconstruct import Reconstruct
from gossamer.methods.solve.align import aimed
from gossamer.methods.solve.error import output_energy, relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight


@dataclass(frozen=True)
class LayerReport:
    """What became of one weight matrix."""

    name: str
    block: int | None
    kind: str
    shape: tuple[int, int]
    sparsity: float
    bits: int | None
    rank: int | None
    """Of its low-rank part; None without one."""
    format: str
    bytes: int
    dense_bytes: int
    """In bfloat16."""
    relative_error: float | None
    """Share of the output's energy that is lost, on the calibration inputs; of the weights' where there are none.
    With `aim`, of the outputs that were aimed at."""
    seconds: float
    notes: list[str]
    steps: list[dict[str, Any]] = field(default_factory=list)
    """`method` of each step in order, and the `relative_error` after it."""


@dataclass
class Work:
    """One matrix on its way through the steps of a recipe."""

    name: str
    dense_OI: Tensor
    layer: LayerWeight = field(init=False)
    aimed_OI: Tensor | None = None
    """What it was first fitted to, if not the dense weight."""
    statistic: Statistic | None = None
    """Of its last inputs."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    _energy: float | None = None
    """Of the outputs that errors are relative to, once one was asked for."""
    _judged: tuple[Tensor, float] | None = None
    """The last weights whose error was asked for, and it."""

    def __post_init__(self) -> None:
        self.layer = LayerWeight(self.dense_OI)

    def see(self, statistic: Statistic | None) -> None:
        """Take the inputs that steps and errors go by from now on."""
        self.statistic, self._energy, self._judged = statistic, None, None

    @contextmanager
    def working(self) -> Iterator[None]:
        """While open, time counts as spent on this matrix, and errors name it."""
        started = time.monotonic()
        try:
            yield
        except GossamerError as error:
            raise type(error)(f"{self.name}: {error}") from error
        self.seconds += time.monotonic() - started

    def aim(self, moments: Moments) -> None:
        """Fit the weight, and what later steps fit it to, to the outputs of the dense model."""
        target_OI = aimed(self.dense_OI, self.layer.whole_OI, moments, self.notes)
        if self.aimed_OI is None:
            self.aimed_OI = target_OI
        layer = self._with_whole(target_OI)
        self.layer = layer if layer.mask_OI is None else layer.pruned(layer.mask_OI)

    def as_given(self) -> LayerWeight:
        """The layer before it was aimed, with the mask that it has by now."""
        layer = LayerWeight(self.dense_OI)
        return layer if self.layer.mask_OI is None else layer.pruned(self.layer.mask_OI)

    def take(self, weight_OI: Tensor) -> None:
        """Take over the weights that training made of these."""
        self._judged = None
        layer = self._with_whole(weight_OI)
        self.layer = layer if layer.mask_OI is None else layer.pruned(layer.mask_OI)

    def _with_whole(self, whole_OI: Tensor) -> LayerWeight:
        """The layer with a weight that gives this together with its low-rank part, and to be fitted to it."""
        factors = self.layer.factors
        weight_OI = whole_OI if factors is None else whole_OI - factors.product()
        return replace(self.layer, weight_OI=weight_OI, target_OI=weight_OI)

    def error(self, weight_OI: Tensor) -> float | None:
        """The error of these weights, as `LayerReport` says."""
        if self._judged is not None and torch.equal(weight_OI, self._judged[0]):
            return self._judged[1]
        error = self._error(weight_OI)
        self._judged = None if error is None else (weight_OI, error)
        return error

    def _error(self, weight_OI: Tensor) -> float | None:
        target_OI = self.dense_OI if self.aimed_OI is None else self.aimed_OI
        if isinstance(self.statistic, Gram):
            gram_II = self.statistic.value()
            if self._energy is None:
                self._energy = output_energy(target_OI, gram_II)
            error = relative_output_error(target_OI, weight_OI, gram_II, self._energy)
            return error if math.isfinite(error) else None
        total = float(target_OI.square().sum())
        if total == 0.0 or not math.isfinite(total):
            return None
        return float((target_OI - weight_OI).square().sum()) / total


@dataclass
class Phase:
    """Steps of the linears of a block, up to where the block is trained as a whole."""

    linears: dict[str, Steps] = field(default_factory=dict)
    trained: dict[Reconstruct, list[str]] = field(default_factory=dict)
    last: list[str] = field(default_factory=list)
    """Linears that are done after this phase."""


def phases(linears: Mapping[str, Steps]) -> list[Phase]:
    """Cut the steps of a block's linears where it is reconstructed."""
    found: list[Phase] = []
    for name, steps in linears.items():
        number, own = 0, list(steps)
        while own:
            if number == len(found):
                found.append(Phase())
            phase = found[number]
            cut = next((at for at, step in enumerate(own) if step.trains), None)
            phase.linears[name] = tuple(own[:cut])
            if cut is not None:
                phase.trained.setdefault(own[cut].settings, []).append(name)  # type: ignore[arg-type]
            own = [] if cut is None else own[cut + 1 :]
            if not own:
                phase.last.append(name)
            number += 1
    return found
