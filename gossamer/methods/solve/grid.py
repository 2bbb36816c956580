"""The grid of a group: the scale, and the minimum if asymmetric, that its codes multiply; and rounding
onto it.

Symmetric:  w = scale * (code - 2**(bits-1)); the scale may be negative, so that the weight of largest
magnitude
            falls on the end of the range that has one code more, as in llama.cpp's Q4_0.
Asymmetric: w = scale * code + minimum, the minimum being a value, not a code, as in Q4_1: data that lies
on such
            a grid and uses its first and last code is reproduced bit for bit.
Both are rounded to float16 before any code is chosen. With a mask only kept weights count. `search`
narrows the range step by step and keeps the scale of least squared error, weighted by the importance of
each input (the "clip" or "mse" option of GPTQ's code, arXiv 2210.17323; the first try, the whole range,
wins ties).

O output features, I input features, G groups, N groups of one row of the matrix or of many, g inputs of a
group.
Cost: one rounding of all weights for each of the 13 tries.
"""

import torch
from pydantic import Field
from torch import Tensor

from gossamer.errors import RecipeError
from gossamer.formats.quantized import Quantized
from gossamer.methods.solve.settings import MethodSettings

GROUP_UNIT = 32
LARGEST_FLOAT16 = 65504.0
RATIOS = (1.0, 1.05, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8, 0.775, 0.75, 0.7)
"""Shares of the whole range that the search tries."""
OFF_SCALE = 2.0**-5
"""Of a scale, that rounding it to float16 may take: more is lost where it lies below 1e-6 or above 65504."""
WEIGHTS_AT_ONCE = 1 << 18
"""Rows are handled in runs of about this many weights, which stay in the cache."""


class Grid(MethodSettings):
    """Settings that the quantizing methods share."""

    bits: int = Field(default=4, ge=2, le=8)
    """Bits of a code, 2 to 8."""
    group_size: int | None = Field(default=64, ge=GROUP_UNIT, multiple_of=GROUP_UNIT)
    """Consecutive inputs that share a scale: a multiple of 32 that divides the layer's inputs; null: one
    scale for each row."""
    symmetric: bool = True
    """true: zero is a code, w = scale * (code - 2**(bits-1)); false: w = scale * code + minimum."""
    search: bool = True
    """Try narrower ranges and keep the one of least squared error; false: the whole range."""

    def size_for(self, num_inputs: int) -> int:
        """Return the group size for a layer; RecipeError naming the sizes that divide its inputs."""
        size = num_inputs if self.group_size is None else self.group_size
        if num_inputs % size:
            allowed = [n for n in range(GROUP_UNIT, num_inputs + 1, GROUP_UNIT) if num_inputs % n == 0]
            raise RecipeError(
                f"group_size {size} does not divide the {num_inputs} inputs of the layer. Use"
                f" {f'one of {allowed} or ' if allowed else ''}group_size null, one scale for each row."
            )
        return size


def float16_holds(weight_OI: Tensor, grid: Grid, notes: list[str]) -> bool:
    """Return whether the matrix can be rounded to grids whose scales are float16; where not, `notes` says why.

    A group is lost when its scale over the whole range is too small or too large for float16. That is let pass while
    all lost groups together hold less than rounding takes from the others, s^2 / 12 a weight: a dead row does not
    decide.
    """
    size = grid.size_for(weight_OI.shape[1])
    weight_Ng = weight_OI.reshape(-1, size)
    low_N, high_N = weight_Ng.aminmax(dim=1)
    if grid.symmetric:
        scale_N = torch.maximum(high_N, -low_N) / 2 ** (grid.bits - 1)
    else:
        scale_N = (high_N - low_N) / (2**grid.bits - 1)
    lost_N = (scale_N.half().float() - scale_N).abs() > OFF_SCALE * scale_N
    if not grid.symmetric:
        lost_N |= low_N.abs() > LARGEST_FLOAT16
    if not bool(lost_N.any()):
        return True
    lost = float(weight_Ng[lost_N].double().square().sum())
    rounding = size * float(scale_N[~lost_N].double().square().sum()) / 12
    if lost <= rounding:
        return True
    low, high = (float(bound) for bound in scale_N[lost_N].aminmax())
    notes.append(
        f"not quantized: {int(lost_N.sum())} of its {len(lost_N)} scales of {grid.bits} bits, {low:.2g} to {high:.2g}, "
        "lie outside of float16"
    )
    return False


def fit(
    weight_Ng: Tensor, grid: Grid, importance_g: Tensor | None = None, mask_Ng: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return scale_N and minimum_N (None when symmetric), float32 with values that float16 holds.

    `importance_g` [g] or [N, g] weighs the squared errors. Groups without a kept weight, or of zeros only,
    get scale 0. Values too large for a float16 scale get the largest one: `float16_holds` says beforehand whether
    that matters.
    """
    if mask_Ng is not None:
        weight_Ng = weight_Ng.masked_fill(~mask_Ng, 0.0)
        importance_g = mask_Ng.float() if importance_g is None else importance_g * mask_Ng
    low_N, high_N = _kept_range(weight_Ng, None if grid.symmetric else mask_Ng)
    best_scale_N, best_minimum_N = _on_range(low_N, high_N, 1.0, grid)
    if not grid.search:
        return best_scale_N, best_minimum_N
    best_N = _squared_error(weight_Ng, best_scale_N, best_minimum_N, grid.bits, importance_g)
    for ratio in RATIOS[1:]:
        scale_N, minimum_N = _on_range(low_N, high_N, ratio, grid)
        error_N = _squared_error(weight_Ng, scale_N, minimum_N, grid.bits, importance_g)
        better_N = error_N < best_N
        best_N = torch.where(better_N, error_N, best_N)
        best_scale_N = torch.where(better_N, scale_N, best_scale_N)
        if minimum_N is not None and best_minimum_N is not None:
            best_minimum_N = torch.where(better_N, minimum_N, best_minimum_N)
    return best_scale_N, best_minimum_N


def encode(weight_OI: Tensor, scale_OG: Tensor, minimum_OG: Tensor | None, bits: int) -> Tensor:
    """Return the nearest codes_OI, uint8."""
    num_rows, num_inputs = weight_OI.shape
    weight_OGg = weight_OI.reshape(num_rows, scale_OG.shape[1], -1)
    minimum_OG1 = None if minimum_OG is None else minimum_OG[..., None]
    code_OGg = _nearest(weight_OGg, scale_OG[..., None], minimum_OG1, bits)
    return code_OGg.to(torch.uint8).view(num_rows, num_inputs)


def quantize(
    weight_OI: Tensor, grid: Grid, importance_I: Tensor | None = None, mask_OI: Tensor | None = None
) -> Quantized:
    """Return the matrix rounded to nearest, each group on its own grid."""
    num_rows, num_inputs = weight_OI.shape
    size = grid.size_for(num_inputs)
    scale_OG, minimum_OG = fit_groups(weight_OI, grid, importance_I, mask_OI)
    step = max(WEIGHTS_AT_ONCE // num_inputs, 1)
    codes_OI = torch.empty(num_rows, num_inputs, dtype=torch.uint8, device=weight_OI.device)
    for start in range(0, num_rows, step):
        rows = slice(start, start + step)
        minimum_RG = None if minimum_OG is None else minimum_OG[rows]
        codes_OI[rows] = encode(weight_OI[rows], scale_OG[rows], minimum_RG, grid.bits)
    return Quantized(codes_OI, scale_OG, minimum_OG, grid.bits, size)


def fit_groups(
    weight_OI: Tensor, grid: Grid, importance_I: Tensor | None = None, mask_OI: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return scale_OG and minimum_OG of all groups of the matrix."""
    num_rows, num_inputs = weight_OI.shape
    size = grid.size_for(num_inputs)
    scale_OG = torch.empty(num_rows, num_inputs // size, device=weight_OI.device)
    minimum_OG = None if grid.symmetric else torch.empty_like(scale_OG)
    step = max(WEIGHTS_AT_ONCE // num_inputs, 1)
    for start in range(0, num_rows, step):
        rows = slice(start, start + step)
        weight_Ng = weight_OI[rows].reshape(-1, size)
        mask_Ng = None if mask_OI is None else mask_OI[rows].reshape(-1, size)
        importance_Ng = None
        if importance_I is not None:
            importance_Ng = importance_I.expand(weight_OI[rows].shape).reshape(-1, size)
        scale_N, minimum_N = fit(weight_Ng, grid, importance_Ng, mask_Ng)
        scale_OG[rows] = scale_N.view(-1, num_inputs // size)
        if minimum_OG is not None and minimum_N is not None:
            minimum_OG[rows] = minimum_N.view(-1, num_inputs // size)
    return scale_OG, minimum_OG


def nonzero(scale: Tensor) -> Tensor:
    """Return the scale to divide by, 1 in place of 0: such a group then gets the code of zero."""
    return scale.masked_fill(scale == 0, 1.0)


def _kept_range(weight_Ng: Tensor, mask_Ng: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the least and the largest kept weight of each group; 0 and 0 if none is kept."""
    if mask_Ng is None:
        low_N, high_N = weight_Ng.aminmax(dim=1)
        return low_N, high_N
    low_N = weight_Ng.masked_fill(~mask_Ng, torch.inf).amin(1)
    high_N = weight_Ng.masked_fill(~mask_Ng, -torch.inf).amax(1)
    return low_N.nan_to_num(posinf=0.0), high_N.nan_to_num(neginf=0.0)


def _on_range(low_N: Tensor, high_N: Tensor, ratio: float, grid: Grid) -> tuple[Tensor, Tensor | None]:
    """Return scale_N and minimum_N of a grid over a share of the range."""
    if grid.symmetric:
        extreme_N = torch.where(high_N > -low_N, high_N, low_N)  # the largest magnitude, with its sign
        return to_float16(extreme_N * (-ratio / 2 ** (grid.bits - 1))), None
    cut_N = (high_N - low_N) * ((1 - ratio) / 2)
    scale_N = to_float16((high_N - low_N) * (ratio / (2**grid.bits - 1)))
    return scale_N, to_float16(low_N + cut_N)


def to_float16(values: Tensor) -> Tensor:
    """Return float32 with values that float16 holds, the largest one for what is too large."""
    return values.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16).half().float()


def _nearest(weight: Tensor, scale: Tensor, minimum: Tensor | None, bits: int) -> Tensor:
    """Return the nearest codes as float32; all arguments broadcast."""
    if minimum is None:
        half = 2 ** (bits - 1)
        return torch.div(weight, nonzero(scale)).round_().clamp_(-half, half - 1).add_(half)
    return torch.sub(weight, minimum).div_(nonzero(scale)).round_().clamp_(0, 2**bits - 1)


def _squared_error(
    weight_Ng: Tensor, scale_N: Tensor, minimum_N: Tensor | None, bits: int, importance_g: Tensor | None
) -> Tensor:
    minimum_N1 = None if minimum_N is None else minimum_N[:, None]
    value_Ng = _nearest(weight_Ng, scale_N[:, None], minimum_N1, bits)
    if minimum_N1 is None:
        value_Ng.sub_(2 ** (bits - 1))
    value_Ng.mul_(scale_N[:, None])
    if minimum_N1 is not None:
        value_Ng.add_(minimum_N1)
    error_Ng = value_Ng.sub_(weight_Ng).square_()
    if importance_g is not None:
        error_Ng.mul_(importance_g)
    return error_Ng.sum(1)
