"""The table of methods: how the settings of each are written, and the function that applies them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gossamer.methods import (
    admm,
    basil,
    eora,
    gptq,
    magnitude,
    oats,
    refit,
    rtn,
    sparsegpt,
    svd,
    swaps,
    threshold,
    wanda,
)
from gossamer.methods.reconstruct import Reconstruct
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.settings import Evidence, MethodSettings

S = TypeVar("S", bound=MethodSettings)


class Apply(Protocol):
    """Apply a method to one layer: RecipeError, CheckpointError or CalibrationError where it cannot be."""

    def __call__(
        self, layer: LayerWeight, evidence: Evidence | None, settings: MethodSettings, notes: list[str]
    ) -> LayerWeight:
        """Return the layer as the method leaves it; `notes` gets what the user should know."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table."""

    settings: type[MethodSettings]
    apply: Apply
    quantizes: bool = False
    trains: bool = False
    """True: it is applied to a whole block, not to one layer (methods/reconstruct.py)."""
    corrects: bool = False
    """True: it leaves the weight as it is, quantized or not, and adds to it."""
    replaces: bool = False
    """True: nothing of the weight is left for other steps."""


def _given(
    settings_class: type[S], apply: Callable[[LayerWeight, Evidence | None, S, list[str]], LayerWeight]
) -> tuple[type[S], Apply]:
    """A method's settings and its function, which from here on checks that it gets these settings."""

    def checked(
        layer: LayerWeight, evidence: Evidence | None, settings: MethodSettings, notes: list[str]
    ) -> LayerWeight:
        assert isinstance(settings, settings_class)
        return apply(layer, evidence, settings, notes)

    return settings_class, checked


def _of_blocks(
    layer: LayerWeight, evidence: Evidence | None, settings: MethodSettings, notes: list[str]
) -> LayerWeight:
    raise AssertionError("it trains blocks; compression/stages.py calls it")


METHODS: dict[str, Method] = {
    "threshold": Method(*_given(threshold.Threshold, threshold.apply)),
    "magnitude": Method(*_given(magnitude.Magnitude, magnitude.apply)),
    "wanda": Method(*_given(wanda.Wanda, wanda.apply)),
    "sparsegpt": Method(*_given(sparsegpt.SparseGPT, sparsegpt.apply)),
    "swaps": Method(*_given(swaps.Swaps, swaps.apply)),
    "admm": Method(*_given(admm.ADMM, admm.apply)),
    "oats": Method(*_given(oats.OATS, oats.apply)),
    "basil": Method(*_given(basil.BASiL, basil.apply)),
    "svd": Method(*_given(svd.SVD, svd.apply), replaces=True),
    "refit": Method(*_given(refit.Refit, refit.apply)),
    "reconstruct": Method(Reconstruct, _of_blocks, trains=True),
    "rtn": Method(*_given(rtn.RTN, rtn.apply), quantizes=True),
    "gptq": Method(*_given(gptq.GPTQ, gptq.apply), quantizes=True),
    "eora": Method(*_given(eora.EoRA, eora.apply), corrects=True),
}
