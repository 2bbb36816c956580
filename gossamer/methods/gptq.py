"""GPTQ: quantize with optimal updates of the weights not yet quantized (Frantar et al. 2022, arXiv
2210.17323).

Inputs are rounded from the first to the last, all rows at once (algorithm 1); the error of each is
compensated by the inputs after it (eq. 2, in the Cholesky form of section 3). The scales of a group are
fitted when its first input is reached, on weights already updated. Pruned weights are fixed to zero like a
quantized value, so that what feedback would put there goes on to the kept ones ("joint" of SparseGPT,
arXiv 2301.00774, section 3.5, on a mask given before); scales see kept weights only.

`act_order` fixes the inputs of largest norm first. Groups remain runs of consecutive inputs, so all scales
are then fitted at the start ("static groups" of the published code), and no order needs to be stored.
Afterwards scales and codes are improved in `rounds` (methods/solve/descend.py).

Shapes: O output features, I input features, G groups, W inputs of a window (a group, or all).
Cost:   O * I^2 multiply-adds, a Cholesky factor of I x I, and the fitting of methods/solve/grid.py.
"""

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gossamer.calibration.statistics import Gram, Statistic
from gossamer.formats.quantized import Quantized
from gossamer.methods.solve.descend import improve
from gossamer.methods.solve.feedback import Fixing, Grids, fix_inputs
from gossamer.methods.solve.grid import Grid, fit, fit_groups, float16_holds
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.linear_algebra import damped_factor, inverse_factor
from gossamer.methods.solve.settings import Evidence


class GPTQ(Grid):
    """Settings of GPTQ."""

    needs: ClassVar[type[Statistic] | None] = Gram

    damping: float = Field(default=0.1, ge=0.0, le=1.0)
    """Added to the Gram matrix's diagonal, as a share of its mean; raised and reported if not enough."""
    act_order: bool = True
    """Quantize the inputs of largest norm first, with all scales fitted at the start; false: in their order,
    the scales of a group fitted when it is reached."""
    average_bits: float | None = Field(default=None, gt=2.0, lt=8.0, allow_inf_nan=False)
    """Mixed precision: layers that the model needs most get up to 8 bits, the others `bits`, this many on average; on a
    mask 4 or 8, on average over the kept weights."""
    rounds: int = Field(default=1, ge=0, le=100)
    """Rounds in which scales are refitted and codes chosen anew afterwards; 0 is GPTQ as published."""

    @property
    def shares_bits(self) -> bool:
        return self.average_bits is not None

    @model_validator(mode="after")
    def _average_above_bits(self) -> Self:
        if self.average_bits is not None and not self.average_bits > self.bits:
            raise ValueError(f"average_bits {self.average_bits:g} is not above bits, which are {self.bits}")
        return self


def apply(layer: LayerWeight, statistic: Evidence | None, settings: GPTQ, notes: list[str]) -> LayerWeight:
    """Return the layer rounded to its codes, pruned weights still zero; as it is where float16 cannot hold its scales.

    RecipeError if the layer is quantized already or the group size does not divide its inputs,
    CalibrationError if the Gram matrix cannot be used. Dead inputs are rounded to nearest.
    """
    assert isinstance(statistic, Gram), "gptq needs Gram"
    layer.require_changeable("gptq")
    if not float16_holds(layer.weight_OI, settings, notes):
        return layer
    order_I = torch.arange(statistic.num_inputs, device=layer.weight_OI.device)
    if settings.act_order:
        order_I = statistic.mean_square().argsort(descending=True, stable=True)
    factor = inverse_factor(statistic.value(), settings.damping, notes, order_I)
    quantized = _quantize(layer, settings, factor.upper_II, order_I)
    if settings.rounds:
        hessian_II = damped_factor(statistic.value(), factor.damping, []).damped_II.float()
        quantized = improve(quantized, layer.mask_OI, layer.target_OI, hessian_II, settings.rounds)
    return layer.with_codes(quantized)


def _quantize(layer: LayerWeight, settings: GPTQ, upper_II: Tensor, order_I: Tensor) -> Quantized:
    """Run the loop over the inputs in the given order."""
    num_rows, num_inputs = layer.weight_OI.shape
    size = settings.size_for(num_inputs)
    half = 2 ** (settings.bits - 1) if settings.symmetric else 0
    lowest, highest = -half, 2**settings.bits - 1 - half
    weight_IO = layer.weight_OI.T[order_I].contiguous()
    kept_IO = None if layer.mask_OI is None else layer.mask_OI.T[order_I].float().contiguous()
    code_IO = torch.empty_like(weight_IO)
    scale_GO = weight_IO.new_empty(num_inputs // size, num_rows)
    minimum_GO = torch.zeros_like(scale_GO)
    importance_I = upper_II.diagonal() ** -2  # what a squared error of this input costs (eq. 2)
    if settings.act_order:
        importance_I = importance_I[order_I.argsort()]
        scale_OG, minimum_OG = fit_groups(layer.weight_OI, settings, importance_I, layer.mask_OI)
        scale_GO.copy_(scale_OG.T)
        if minimum_OG is not None:
            minimum_GO.copy_(minimum_OG.T)

    def begin_window(start: int, stop: int) -> None:
        if settings.act_order:
            return
        mask_Og = None if layer.mask_OI is None else layer.mask_OI[:, start:stop]
        weight_Og = weight_IO[start:stop].T.contiguous()
        scale_O, minimum_O = fit(weight_Og, settings, importance_I[start:stop], mask_Og)
        scale_GO[start // size] = scale_O
        if minimum_O is not None:
            minimum_GO[start // size] = minimum_O

    grids = Grids(order_I // size, scale_GO, minimum_GO, (lowest, highest), code_IO)
    fixing = Fixing(weight_IO, upper_II, kept_IO, grids)
    fix_inputs(fixing, num_inputs if settings.act_order else size, begin_window)
    codes_OI = weight_IO.new_empty(num_rows, num_inputs, dtype=torch.uint8)
    codes_OI[:, order_I] = code_IO.add_(half).T.to(torch.uint8)
    minimum_OG = None if settings.symmetric else minimum_GO.T.contiguous()
    return Quantized(codes_OI, scale_GO.T.contiguous(), minimum_OG, settings.bits, size)
