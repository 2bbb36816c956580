"""Improve codes and scales that another method has chosen: coordinate descent on what the layer really loses.

GPTQ fixes every input once, in one order. Afterwards two kinds of steps each lower tr((Q - T) H (Q - T)^T), H the
damped Gram matrix, T the weight that the layer had at first:
- scales: with the codes fixed the loss is quadratic in the scales (and minima) of a row's groups; one small
  system for each row. A row keeps its old ones where rounding to float16 would make it worse.
- codes: one input after the other goes to the code nearest to its best value given all others (QuantEase,
  Behdin et al. 2023, arXiv 2309.01885, algorithm 1). Pruned weights stay zero.

Shapes: O output features, I input features, G groups, g inputs of a group, U unknowns of a row: G scales, or G
scales and G minima; R rows handled at once.
Cost:   4 * O * I^2 multiply-adds a round, and O systems of U x U.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gossamer.formats.quantized import Quantized
from gossamer.kernels.dispatch import native_module
from gossamer.methods.solve.feedback import CHUNK_SIZE
from gossamer.methods.solve.grid import nonzero, to_float16

UNKNOWNS_AT_ONCE = 1 << 22
RIDGE = 1e-3
"""Of the system's diagonal, towards the present scales."""


def improve(
    quantized: Quantized, mask_OI: Tensor | None, target_OI: Tensor, hessian_II: Tensor, rounds: int
) -> Quantized:
    """Return better codes, scales and minima for the same bits and groups; the loss never grows."""
    for _ in range(rounds):
        quantized = fit_scales(quantized, mask_OI, target_OI, hessian_II)
        quantized = descend(quantized, mask_OI, target_OI, hessian_II)
    return quantized


def fit_scales(
    quantized: Quantized, mask_OI: Tensor | None, target_OI: Tensor, hessian_II: Tensor
) -> Quantized:
    """Return the matrix with the best scales (and minima) for its codes."""
    num_groups = quantized.scale_OG.shape[1]
    unknowns = num_groups * (1 if quantized.minimum_OG is None else 2)
    step = max(UNKNOWNS_AT_ONCE // unknowns**2, 1)
    scale_OG = quantized.scale_OG.clone()
    minimum_OG = None if quantized.minimum_OG is None else quantized.minimum_OG.clone()
    for start in range(0, len(scale_OG), step):
        rows = slice(start, start + step)
        parts = [_centred(quantized.codes_OI[rows], quantized)]
        present = [scale_OG[rows]]
        if minimum_OG is not None:
            parts.append(torch.ones_like(parts[0]))
            present.append(minimum_OG[rows])
        if mask_OI is not None:
            parts = [part_RI * mask_OI[rows] for part_RI in parts]
        fitted_RU = _solve(parts, torch.cat(present, 1), target_OI[rows], hessian_II, quantized.group_size)
        scale_OG[rows] = fitted_RU[:, :num_groups]
        if minimum_OG is not None:
            minimum_OG[rows] = fitted_RU[:, num_groups:]
    return replace(quantized, scale_OG=scale_OG, minimum_OG=minimum_OG)


def _solve(
    parts: list[Tensor], present_RU: Tensor, target_RI: Tensor, hessian_II: Tensor, size: int
) -> Tensor:
    """Return the unknowns of least loss, float32 with values that float16 holds; the present ones if better."""
    num_rows, num_unknowns = present_RU.shape
    system_RUU = present_RU.new_zeros(
        num_rows, num_unknowns, num_unknowns
    )  # its lower triangle is all that is read
    value_RI = _spread(parts, present_RU, size)
    slope_RI = (target_RI - value_RI) @ hessian_II
    right_RU = torch.cat([_by_group(part_RI * slope_RI, size) for part_RI in parts], 1)
    unknown = 0
    for number, part_RI in enumerate(parts):
        for start in range(0, part_RI.shape[1], size):
            last = start + size if number == 0 else part_RI.shape[1]
            image_RL = part_RI[:, start : start + size] @ hessian_II[start : start + size, :last]
            products = [_by_group(other[:, :last] * image_RL, size) for other in parts[: number + 1]]
            system_RUU[:, unknown, : unknown + 1] = torch.cat(products, 1)[:, : unknown + 1]
            unknown += 1
    diagonal_RU = system_RUU.diagonal(dim1=1, dim2=2)
    diagonal_RU += RIDGE * diagonal_RU + torch.finfo(torch.float32).tiny
    factor_RUU, failed_R = torch.linalg.cholesky_ex(system_RUU)
    change_RU = torch.cholesky_solve(right_RU[..., None], factor_RUU)[..., 0]
    fitted_RU = to_float16((present_RU + change_RU).nan_to_num(0.0))
    error_RI = _spread(parts, fitted_RU, size) - target_RI
    before_RI = value_RI - target_RI
    better_R = _loss(error_RI, hessian_II) < _loss(before_RI, hessian_II)
    better_R &= failed_R == 0
    return torch.where(better_R[:, None], fitted_RU, present_RU)


def descend(quantized: Quantized, mask_OI: Tensor | None, target_OI: Tensor, hessian_II: Tensor) -> Quantized:
    """Return the matrix after every input's codes were chosen anew once, the later ones knowing the earlier."""
    half = 2 ** (quantized.bits - 1) if quantized.symmetric else 0
    lowest, highest = -half, 2**quantized.bits - 1 - half
    code_IO = _centred(quantized.codes_OI, quantized).T.contiguous()
    kept_IO = None if mask_OI is None else mask_OI.T.float().contiguous()
    scale_GO = quantized.scale_OG.T.contiguous()
    minimum_GO = torch.zeros_like(scale_GO)
    if quantized.minimum_OG is not None:
        minimum_GO.copy_(quantized.minimum_OG.T)
    weight_OI = quantized.dequantize()
    if mask_OI is not None:
        weight_OI.masked_fill_(~mask_OI, 0.0)
    weight_IO = weight_OI.T.contiguous()
    slope_IO = (hessian_II @ (weight_OI - target_OI).T).contiguous()
    descent = Descent(weight_IO, hessian_II.contiguous(), slope_IO, kept_IO, scale_GO, minimum_GO, code_IO)
    for start in range(0, len(code_IO), CHUNK_SIZE):
        stop = min(start + CHUNK_SIZE, len(code_IO))
        change_CO = torch.empty_like(code_IO[start:stop])
        _descend_chunk(descent, start, change_CO, quantized.group_size, (lowest, highest))
        slope_IO.addmm_(hessian_II[:, start:stop], change_CO)
    return replace(quantized, codes_OI=(code_IO + half).T.to(torch.uint8).contiguous())


@dataclass(frozen=True, slots=True)
class Descent:
    """What one pass over all inputs works with, in float32."""

    weight_IO: Tensor
    hessian_II: Tensor
    slope_IO: Tensor
    """H (W - T), with what the inputs of earlier chunks have changed."""
    kept_IO: Tensor | None
    """1 and 0; None when all weights are kept."""
    scale_GO: Tensor
    minimum_GO: Tensor
    code_IO: Tensor
    """Overwritten."""


def _descend_chunk(
    descent: Descent, first: int, change_CO: Tensor, group_size: int, bounds: tuple[float, float]
) -> None:
    """Choose the codes of a chunk anew; change_CO becomes what that adds to the weights. Native code on the CPU."""
    native = native_module()
    if native is None or not descent.weight_IO.is_cpu:
        descend_chunk_plainly(descent, first, change_CO, group_size, bounds)
        return
    native.descend_chunk(
        descent.weight_IO, descent.hessian_II, descent.slope_IO, descent.kept_IO, descent.scale_GO, descent.minimum_GO,
        descent.code_IO, change_CO, first, len(change_CO), group_size, bounds,
    )  # fmt: skip


def descend_chunk_plainly(
    descent: Descent, first: int, change_CO: Tensor, group_size: int, bounds: tuple[float, float]
) -> None:
    """The reference of the native code, and what serves other devices."""
    last = first + len(change_CO)
    inverse_C = (1 / descent.hessian_II.diagonal()[first:last]).tolist()
    for index in range(first, last):
        weight_O, at = descent.weight_IO[index], index // group_size
        slope_O = (
            descent.hessian_II[index, first:index] @ change_CO[: index - first] + descent.slope_IO[index]
        )
        best_O = torch.sub(weight_O, slope_O, alpha=inverse_C[index - first])
        code_O = (
            best_O.sub_(descent.minimum_GO[at]).div_(nonzero(descent.scale_GO[at])).round_().clamp_(*bounds)
        )
        value_O = torch.addcmul(descent.minimum_GO[at], code_O, descent.scale_GO[at])
        if descent.kept_IO is not None:
            value_O *= descent.kept_IO[index]
        torch.sub(value_O, weight_O, out=change_CO[index - first])
        descent.code_IO[index] = code_O


def _centred(codes_OI: Tensor, quantized: Quantized) -> Tensor:
    """Return the codes as float32, 0 where the value is the minimum (or, symmetric, zero)."""
    return codes_OI.float() - (2 ** (quantized.bits - 1) if quantized.symmetric else 0)


def _spread(parts: list[Tensor], unknown_RU: Tensor, size: int) -> Tensor:
    """Return sum over parts of part * its unknown of the group, [R, I]."""
    pieces = unknown_RU.chunk(len(parts), 1)
    return sum(part * piece.repeat_interleave(size, 1) for part, piece in zip(parts, pieces, strict=True))  # type: ignore[return-value]


def _by_group(values_RI: Tensor, size: int) -> Tensor:
    return values_RI.view(len(values_RI), -1, size).sum(2)


def _loss(error_RI: Tensor, hessian_II: Tensor) -> Tensor:
    return ((error_RI @ hessian_II) * error_RI).sum(1)
