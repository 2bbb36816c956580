"""Kept weights on the grid that the folder has for them: rounded in every step, trained straight through.

    symmetric     w = s q             q = clamp(round(v / s0), -2^(b-1), 2^(b-1) - 1)
    asymmetric    w = s q + m         q = clamp(round(v / s0), 0, 2^b - 1)

What is trained is v, a weight before it is rounded (above m, where there is one), measured by the scale s0 with which
training began; and with it s and m, float16 in every step, as they are stored:

    dw/dv = s / s0 inside the range of the codes, 0 outside (straight through)      dw/ds = q      dw/dm = 1

These are trained step sizes (LSQ, Esser et al. 2019, arXiv 1902.10153, eqs. 2 and 5), but for s0 in the place of s. The
paper's eq. 3, dw/ds = q - v/s, is the gradient where v stays while s moves; where training starts from a folder, all v
on their grid, that is nothing but rounding errors, and Adam would make steps of them. Scales are s = s0 exp(a), which
keeps their sign, and minima m = m0 + s0 b: a step of Adam then is a share of a scale, whatever its size.

O output features, I input features, G groups of g inputs, n kept weights.
"""

import torch
from torch import Tensor, nn

from gossamer.formats.quantized import Quantized
from gossamer.methods.solve.grid import Grid, encode, fit_groups, nonzero, to_float16
from gossamer.training.kept import KeptWeight, Kind

WITHIN_CELL = 0.45
"""Of a step of the grid, from the middle of a cell: rounding changes at 0.5."""
MOST_OF_CELL = 0.4999


class GridWeight(KeptWeight):
    """Kept weights that are stored as codes with scales; `values_n` are v, not yet rounded."""

    def __init__(self, quantized: Quantized, mask_OI: Tensor) -> None:
        super().__init__(mask_OI)
        self.bits, self.group_size, self.symmetric = quantized.bits, quantized.group_size, quantized.symmetric
        half = 1 << (self.bits - 1)
        self._low, self._high = (-half, half - 1) if self.symmetric else (0, 2 * half - 1)
        self._set_grid(quantized.scale_OG, quantized.minimum_OG)
        self.values_n = nn.Parameter(self._centred(quantized.codes_OI))
        self.refresh()

    def trained(self) -> dict[str, tuple[nn.Parameter, Kind]]:
        found: dict[str, tuple[nn.Parameter, Kind]] = {
            **super().trained(),
            "scale": (self.growth_OG, "scale"),
        }
        return found if self.shift_OG is None else {**found, "minimum": (self.shift_OG, "scale")}

    @torch.no_grad()
    def lean(self, wanted_OI: Tensor) -> None:
        """Begin beside the middle of each code's cell, towards these weights. What is rounded stays as it is.

        A code between two weights that would do as well then needs little to change, and one that is sure needs much.
        """
        beside_n = self.take((wanted_OI - self.working_OI) * self.mask())
        most_n = WITHIN_CELL * self._unit().abs()
        self.values_n.add_(torch.clamp(beside_n, -most_n, most_n))
        self.refresh()

    @torch.no_grad()
    def dither(self, wanted_OI: Tensor) -> None:
        """Begin where these weights lie in cells of their own, whatever cell the code is of. No rounded weight changes.

        What is added then moves a code as it would move that of the weight, so that it arrives on the average.
        """
        beside_n, unit_n = self.take(wanted_OI - self.working_OI), self._unit()
        share_n = beside_n / unit_n
        share_n.sub_(share_n.round()).clamp_(-MOST_OF_CELL, MOST_OF_CELL)
        self.values_n.add_(share_n * unit_n)
        self.refresh()

    @torch.no_grad()
    def widen(self) -> None:
        """Give groups with weights, before rounding, outside of their range another one, where that is nearer."""
        if bool(self._inside_n.all()):
            return
        wanted_n = (
            self.values_n if self.minimum_OG is None else self.values_n + self._of_kept(self.minimum_OG)
        )
        wanted_OI, mask_OI = self.place(wanted_n.detach().clone()), self.mask()
        scale_OG, minimum_OG = fit_groups(wanted_OI, self._settings(), None, mask_OI)
        codes_OI = encode(wanted_OI, scale_OG, minimum_OG, self.bits)
        new_OI = Quantized(codes_OI, scale_OG, minimum_OG, self.bits, self.group_size).dequantize()
        outside_OG = self._grouped(self.place(~self._inside_n)).any(2)
        errors_OI = ((each_OI - wanted_OI).mul_(mask_OI).square_() for each_OI in (new_OI, self.working_OI))
        new_OG, old_OG = (self._grouped(each_OI).sum(2) for each_OI in errors_OI)
        better_OG = outside_OG & (new_OG < old_OG)
        scale_OG = torch.where(better_OG, scale_OG, self.scale_OG)
        if minimum_OG is not None and self.minimum_OG is not None:
            minimum_OG = torch.where(better_OG, minimum_OG, self.minimum_OG)
        self._set_grid(scale_OG, minimum_OG)
        self.values_n.copy_(self.take(wanted_OI))
        if minimum_OG is not None:
            self.values_n.sub_(self._of_kept(minimum_OG))
        self.refresh()

    def quantized(self) -> Quantized:
        """Return the codes and scales that `working_OI` is made of; removed weights have the code in the middle."""
        code_n = self._code_n - (self._low if self.symmetric else 0)
        codes_OI = self.place(code_n).to(torch.uint8)
        if self.index_n is not None or self.moving is not None:
            codes_OI.masked_fill_(~self.mask(), 1 << (self.bits - 1))
        return Quantized(codes_OI, self.scale_OG, self.minimum_OG, self.bits, self.group_size)

    def snapshot(self) -> dict[str, Tensor]:
        quantized = self.quantized()
        codes_n, scale_OG = self.take(quantized.codes_OI).clone(), self.scale_OG.half()
        found = {"codes": codes_n, "scale": scale_OG, **self._mask_kept()}
        return found if self.minimum_OG is None else {**found, "minimum": self.minimum_OG.half()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        self._put_mask(snapshot)
        minimum = snapshot.get("minimum")
        self._set_grid(snapshot["scale"].float(), None if minimum is None else minimum.float())
        self.values_n.copy_(self._centred(self.place(snapshot["codes"])))
        if self.adapter is not None:
            self.adapter.clear()
        self.refresh()

    def _settings(self) -> Grid:
        size = None if self.group_size == self.shape[1] else self.group_size
        return Grid(bits=self.bits, group_size=size, symmetric=self.symmetric)

    def _set_grid(self, scale_OG: Tensor, minimum_OG: Tensor | None) -> None:
        """Begin with these scales and minima."""
        self._first_scale_OG, self._first_minimum_OG = scale_OG, minimum_OG
        self.scale_OG, self.minimum_OG = scale_OG, minimum_OG
        self.growth_OG = nn.Parameter(torch.zeros_like(scale_OG))
        self.shift_OG = None if minimum_OG is None else nn.Parameter(torch.zeros_like(scale_OG))

    def _centred(self, codes_OI: Tensor) -> Tensor:
        """Return the v in the middle of the cells of stored codes."""
        code_n = self.take(codes_OI).float() + (self._low if self.symmetric else 0)
        return code_n.mul_(self._unit())

    def _write(self, added_n: Tensor | None) -> None:
        self.scale_OG = to_float16(self._first_scale_OG * self.growth_OG.detach().exp())
        if self._first_minimum_OG is not None and self.shift_OG is not None:
            moved_OG = self._first_minimum_OG + self._first_scale_OG * self.shift_OG.detach()
            self.minimum_OG = to_float16(moved_OG)
        latent_n = self.values_n.detach() if added_n is None else self.values_n.detach() + added_n
        rounded_n = latent_n.div(self._unit()).round_()
        self._code_n = rounded_n.clamp(self._low, self._high)
        self._inside_n = rounded_n == self._code_n
        value_OGg = self._grouped(self.place(self._code_n)) * self.scale_OG[:, :, None]
        if self.minimum_OG is not None:
            value_OGg.add_(self.minimum_OG[:, :, None])
        self.working_OI = value_OGg.flatten(1)
        if self.minimum_OG is not None and self.index_n is not None:
            self.working_OI = self.place(self.take(self.working_OI))
        self.working_OI = self._soft(self.working_OI)

    def latent(self) -> Tensor:
        latent_OI = super().latent()
        return (
            latent_OI
            if self.minimum_OG is None
            else latent_OI + self._of_kept(self.minimum_OG).view(self.shape)
        )

    def _grouped(self, matrix_OI: Tensor) -> Tensor:
        return matrix_OI.view(self.shape[0], -1, self.group_size)

    def _unit(self) -> Tensor:
        """Return s0 of each kept weight, [n]."""
        return self._of_kept(nonzero(self._first_scale_OG))

    def _of_kept(self, scale_OG: Tensor) -> Tensor:
        """Return what belongs to the group of each kept weight, [n]."""
        return self.take(scale_OG.repeat_interleave(self.group_size, 1))

    def _settle(self, grad_n: Tensor) -> Tensor:
        stored_n = grad_n if self.moving is None else grad_n * self.moving.mask_OI.view(-1)
        by_code_OGg = self._grouped(self.place(stored_n * self._code_n))
        self.growth_OG.grad = by_code_OGg.sum(2).mul_(self.scale_OG)
        if self.shift_OG is not None:
            self.shift_OG.grad = self._grouped(self.place(stored_n)).sum(2).mul_(self._first_scale_OG)
        passed_n = grad_n * self._inside_n
        passed_n.mul_(self._of_kept(self.scale_OG / nonzero(self._first_scale_OG)))
        if self.adapter is None:
            grad_n.copy_(passed_n)
        return passed_n
