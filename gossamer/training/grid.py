"""Kept weights on the grid that the folder has for them: rounded in every step, trained straight through.

    symmetric     w = s q             q = clamp(round(v / s), -2^(b-1), 2^(b-1) - 1)
    asymmetric    w = s q + m         q = clamp(round((v - m) / s), 0, 2^b - 1)

LSQ (Esser et al. 2019, arXiv 1902.10153, eqs. 1 to 5), in groups: v gets the gradient of w inside the range and none
outside; s gets (q - v/s) times it inside and q times it outside, and m the rest. Scales are trained as s = s0 exp(a),
which keeps their sign, and minima as m = m0 + s0 b: with Adam, whose steps do not depend on how large a gradient is,
that stands for the paper's scaling of gradients. Both are float16 in every step, as they are stored.

O output features, I input features, G groups of g inputs, n kept weights.
"""

import torch
from torch import Tensor, nn

from gossamer.formats.quantized import Quantized
from gossamer.methods.solve.grid import nonzero, to_float16
from gossamer.training.kept import KeptWeight


class GridWeight(KeptWeight):
    """Kept weights that are stored as codes with scales."""

    def __init__(self, quantized: Quantized, mask_OI: Tensor) -> None:
        super().__init__(mask_OI)
        self.bits, self.group_size, self.symmetric = quantized.bits, quantized.group_size, quantized.symmetric
        half = 1 << (self.bits - 1)
        self._low, self._high = (-half, half - 1) if self.symmetric else (0, 2 * half - 1)
        self._set_grid(quantized.scale_OG, quantized.minimum_OG)
        self.values_n = nn.Parameter(self.take(quantized.dequantize()).clone())
        self.refresh()

    def rates(self) -> dict[str, nn.Parameter]:
        return {"scale": self.growth_OG} | ({} if self.shift_OG is None else {"minimum": self.shift_OG})

    def quantized(self) -> Quantized:
        """Return the codes and scales that `working_OI` is made of; removed weights have the code in the middle."""
        codes_OI = self._codes().flatten(1) - (self._low if self.symmetric else 0)
        codes_OI = codes_OI.to(torch.uint8)
        if self.index_n is not None:
            codes_OI.masked_fill_(~self.mask(), 1 << (self.bits - 1))
        return Quantized(codes_OI, self.scale_OG, self.minimum_OG, self.bits, self.group_size)

    def snapshot(self) -> dict[str, Tensor]:
        quantized = self.quantized()
        found = {"codes": self.take(quantized.codes_OI).clone(), "scale": self.scale_OG.half()}
        return found if self.minimum_OG is None else {**found, "minimum": self.minimum_OG.half()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        minimum = snapshot.get("minimum")
        self._set_grid(snapshot["scale"].float(), None if minimum is None else minimum.float())
        codes_OI = self.place(snapshot["codes"])
        quantized = Quantized(codes_OI, self.scale_OG, self.minimum_OG, self.bits, self.group_size)
        self.values_n.copy_(self.take(quantized.dequantize()))
        if self.adapter is not None:
            self.adapter.clear()
        self.refresh()

    def _set_grid(self, scale_OG: Tensor, minimum_OG: Tensor | None) -> None:
        """Begin with these scales and minima."""
        self._first_scale_OG, self._first_minimum_OG = scale_OG, minimum_OG
        self.scale_OG, self.minimum_OG = scale_OG, minimum_OG
        self.growth_OG = nn.Parameter(torch.zeros_like(scale_OG))
        self.shift_OG = None if minimum_OG is None else nn.Parameter(torch.zeros_like(scale_OG))

    def _write(self, values_n: Tensor) -> None:
        self.scale_OG = to_float16(self._first_scale_OG * self.growth_OG.detach().exp())
        if self._first_minimum_OG is not None and self.shift_OG is not None:
            moved_OG = self._first_minimum_OG + self._first_scale_OG * self.shift_OG.detach()
            self.minimum_OG = to_float16(moved_OG)
        self._latent_n = values_n
        value_OGg = self._codes().mul_(self.scale_OG[:, :, None])
        if self.minimum_OG is not None:
            value_OGg.add_(self.minimum_OG[:, :, None])
        self.working_OI = value_OGg.flatten(1)
        if self.minimum_OG is not None and self.index_n is not None:
            self.working_OI = self.place(self.take(self.working_OI))

    def _grouped(self, matrix_OI: Tensor) -> Tensor:
        return matrix_OI.view(self.shape[0], -1, self.group_size)

    def _ratio(self) -> Tensor:
        """Return v / s, or (v - m) / s, before it is rounded, [O, G, g]."""
        latent_OGg = self._grouped(self.place(self._latent_n))
        if self.minimum_OG is not None:
            latent_OGg = latent_OGg - self.minimum_OG[:, :, None]
        return latent_OGg / nonzero(self.scale_OG)[:, :, None]

    def _codes(self) -> Tensor:
        """Return q, float32 [O, G, g]."""
        return self._ratio().round_().clamp_(self._low, self._high)

    def _settle(self, grad_n: Tensor) -> None:
        grad_OGg, ratio_OGg = self._grouped(self.place(grad_n)), self._ratio()
        rounded_OGg = ratio_OGg.round()
        code_OGg = rounded_OGg.clamp(self._low, self._high)
        inside_OGg = (rounded_OGg == code_OGg) & (self.scale_OG != 0)[:, :, None]
        slope_OGg = code_OGg.sub_(ratio_OGg.mul_(inside_OGg)).mul_(grad_OGg)
        self.growth_OG.grad = slope_OGg.sum(2).mul_(self.scale_OG)
        if self.shift_OG is not None:
            outside_OG = grad_OGg.masked_fill(inside_OGg, 0.0).sum(2)
            self.shift_OG.grad = outside_OG.mul_(self._first_scale_OG)
        grad_n.mul_(self.take(inside_OGg.flatten(1)))
