"""The table of methods: how the settings of each are written, and the function that applies them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

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
from gossamer.methods.reconstruct import Reconstruct, reconstruct


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table: how its settings are written, and the pure function that applies them."""

    settings: type[BaseModel]
    apply: Callable[..., Any]
    quantizes: bool = False
    trains: bool = False
    """True: it is applied to a whole block, not to one layer."""
    corrects: bool = False
    """True: it leaves the weight as it is, quantized or not, and adds to it."""
    replaces: bool = False
    """True: nothing of the weight is left for other steps."""


METHODS: dict[str, Method] = {
    "threshold": Method(threshold.Threshold, threshold.apply),
    "magnitude": Method(magnitude.Magnitude, magnitude.apply),
    "wanda": Method(wanda.Wanda, wanda.apply),
    "sparsegpt": Method(sparsegpt.SparseGPT, sparsegpt.apply),
    "swaps": Method(swaps.Swaps, swaps.apply),
    "admm": Method(admm.ADMM, admm.apply),
    "oats": Method(oats.OATS, oats.apply),
    "basil": Method(basil.BASiL, basil.apply),
    "svd": Method(svd.SVD, svd.apply, replaces=True),
    "refit": Method(refit.Refit, refit.apply),
    "reconstruct": Method(Reconstruct, reconstruct, trains=True),
    "rtn": Method(rtn.RTN, rtn.apply, quantizes=True),
    "gptq": Method(gptq.GPTQ, gptq.apply, quantizes=True),
    "eora": Method(eora.EoRA, eora.apply, corrects=True),
}
