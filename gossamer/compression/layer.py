"""One matrix on its way through the steps of a recipe, and what is reported of it afterwards.

O output features, I input features.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.calibration.statistics import Gram, Moments, Statistic
from gossamer.checkpoint.matrix import Matrix
from gossamer.errors import GossamerError
from gossamer.methods.reconstruct import Reconstructed
from gossamer.methods.solve.align import aligned
from gossamer.methods.solve.error import output_energy, relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight


@dataclass(frozen=True)
class StepReport:
    """The error of a matrix after one step."""

    method: str
    relative_error: float | None


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
    Where it was aligned, of the outputs of the dense model."""
    seconds: float
    notes: list[str]
    steps: list[StepReport] = field(default_factory=list)

    @classmethod
    def of(cls, value: dict[str, Any]) -> "LayerReport":
        """The report that `dataclasses.asdict` made this of."""
        steps = [StepReport(**each) for each in value["steps"]]
        return cls(**{**value, "shape": tuple(value["shape"]), "steps": steps})


@dataclass(frozen=True)
class BlockReport:
    """What became of one block."""

    name: str
    output_error: float | None
    """Mean relative error of its outputs, against the dense model's; None where that was not run."""
    reconstruction: tuple[Reconstructed, ...]
    """What each training gave."""

    def to_dict(self) -> dict[str, Any]:
        """JSON, without what there is not."""
        value: dict[str, Any] = {"name": self.name}
        if self.output_error is not None:
            value["output_error"] = self.output_error
        if self.reconstruction:
            value["reconstruction"] = [asdict(each) for each in self.reconstruction]
        return value

    @classmethod
    def of(cls, value: dict[str, Any]) -> "BlockReport":
        """The report that `to_dict` made this of."""
        gains = tuple(Reconstructed(**each) for each in value.get("reconstruction", ()))
        return cls(value["name"], value.get("output_error"), gains)


@dataclass
class LayerWork:
    """One matrix on its way through the steps of a recipe."""

    matrix: Matrix
    dense_OI: Tensor
    weight: LayerWeight = field(init=False)
    aligned_OI: Tensor | None = None
    """What it was first fitted to, if not the dense weight."""
    statistic: Statistic | None = None
    """Of its last inputs."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    steps: list[StepReport] = field(default_factory=list)
    _energy: float | None = None
    """Of the outputs that errors are relative to, once one was asked for."""
    _judged: tuple[Tensor, float] | None = None
    """The last weights whose error was asked for, and it."""

    def __post_init__(self) -> None:
        self.weight = LayerWeight(self.dense_OI)

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

    def align(self, moments: Moments) -> None:
        """Fit the weight, and what later steps fit it to, to the outputs of the dense model."""
        target_OI = aligned(self.dense_OI, self.weight.whole_OI, moments, self.notes)
        if self.aligned_OI is None:
            self.aligned_OI = target_OI
        layer = self._with_whole(target_OI)
        self.weight = layer if layer.mask_OI is None else layer.pruned(layer.mask_OI)

    def as_given(self) -> LayerWeight:
        """The layer before it was aligned, with the mask that it has by now."""
        layer = LayerWeight(self.dense_OI)
        return layer if self.weight.mask_OI is None else layer.pruned(self.weight.mask_OI)

    @classmethod
    def of(cls, model: nn.Module, matrix: Matrix) -> "LayerWork":
        """The matrix as it is in the model."""
        return cls(matrix, matrix.get(model))

    @property
    def name(self) -> str:
        return self.matrix.name

    def put(self, model: nn.Module, weight_OI: Tensor | None = None) -> None:
        """Give the model these weights, or those that the steps have made."""
        self.matrix.put(model, self.weight.whole_OI if weight_OI is None else weight_OI)

    def stored_mask(self) -> Tensor | None:
        """The mask in the shape in which the model holds the weight."""
        mask_OI = self.weight.mask_OI
        return None if mask_OI is None else self.matrix.as_stored(mask_OI)

    def take(self, model: nn.Module) -> None:
        """Take over the weights that the model has after training."""
        self._judged = None
        layer = self._with_whole(self.matrix.get(model))
        self.weight = layer if layer.mask_OI is None else layer.pruned(layer.mask_OI)

    def _with_whole(self, whole_OI: Tensor) -> LayerWeight:
        """The layer with a weight that gives this together with its low-rank part, and to be fitted to it."""
        factors = self.weight.factors
        weight_OI = whole_OI if factors is None else whole_OI - factors.product()
        return replace(self.weight, weight_OI=weight_OI, target_OI=weight_OI)

    def report_step(self, method: str) -> None:
        """Note the error after a step."""
        self.steps.append(StepReport(method, self.error(self.weight.whole_OI)))

    def error(self, weight_OI: Tensor) -> float | None:
        """The error of these weights, as `LayerReport` says."""
        if self._judged is not None and torch.equal(weight_OI, self._judged[0]):
            return self._judged[1]
        error = self._error(weight_OI)
        self._judged = None if error is None else (weight_OI, error)
        return error

    def _error(self, weight_OI: Tensor) -> float | None:
        target_OI = self.dense_OI if self.aligned_OI is None else self.aligned_OI
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
