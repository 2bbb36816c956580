"""Weights on a grid: gradients by the published equations, zeros, scales, snapshots."""

import pytest
import torch
from torch import Tensor

from gossamer.formats.choose import repack
from gossamer.formats.integer import IntegerWeight
from gossamer.methods.solve.grid import Grid, quantize
from gossamer.training.adapter import Adapter
from gossamer.training.grid import GridWeight

ROWS, COLUMNS = 6, 64


def weight_of(symmetric: bool, kept: float, bits: int = 3, seed: int = 0) -> tuple[GridWeight, Tensor]:
    """A weight that was moved away from its grid points, so that some of it is clipped; and its mask."""
    generator = torch.Generator().manual_seed(seed)
    mask_OI = torch.rand(ROWS, COLUMNS, generator=generator) < kept
    weight_OI = torch.randn(ROWS, COLUMNS, generator=generator) * mask_OI
    grid = Grid(bits=bits, group_size=32, symmetric=symmetric, search=False)
    weight = GridWeight(quantize(weight_OI, grid, mask_OI=mask_OI), mask_OI)
    with torch.no_grad():
        scale_OI = weight.scale_OG.abs().repeat_interleave(32, 1)
        weight.values_n.add_(
            1.5 * weight.take(scale_OI) * torch.randn(weight.values_n.shape, generator=generator)
        )
    weight.refresh()
    return weight, mask_OI


def published(v: float, s: float, s0: float, low: int, high: int) -> tuple[float, float, float]:
    """Code, and the derivatives of s q + m for v and s (LSQ's equations 2 and 5; codes stay while scales move)."""
    code = min(max(round(v / s0), low), high)
    return code, s / s0 if code == round(v / s0) else 0.0, float(code)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_gradients_are_those_of_the_published_equations(symmetric: bool, kept: float) -> None:
    weight, mask_OI = weight_of(symmetric, kept)
    first_OG = weight.scale_OG
    with torch.no_grad():
        weight.growth_OG.copy_(torch.linspace(-0.3, 0.3, 2 * ROWS).view(ROWS, 2))
    weight.refresh()
    gradient_OI = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    weight.values_n.grad = weight.take(gradient_OI).clone()
    weight.settle()
    low, high = (-4, 3) if symmetric else (0, 7)
    latent_OI = weight.place(weight.values_n.detach())
    wanted_v = torch.zeros(ROWS, COLUMNS)
    wanted_s, wanted_m = torch.zeros(ROWS, 2), torch.zeros(ROWS, 2)
    for o, i in mask_OI.nonzero().tolist():
        s, s0 = float(weight.scale_OG[o, i // 32]), float(first_OG[o, i // 32])
        m = 0.0 if weight.minimum_OG is None else float(weight.minimum_OG[o, i // 32])
        code, by_v, by_s = published(float(latent_OI[o, i]), s, s0, low, high)
        assert float(weight.working_OI[o, i]) == pytest.approx(code * s + m, abs=1e-6)
        wanted_v[o, i] = by_v * gradient_OI[o, i]
        wanted_s[o, i // 32] += by_s * gradient_OI[o, i] * s
        wanted_m[o, i // 32] += gradient_OI[o, i] * s0
    assert float((wanted_v[mask_OI] == 0).float().mean()) > 0.01  # some are clipped
    torch.testing.assert_close(weight.values_n.grad, wanted_v[mask_OI])
    torch.testing.assert_close(weight.growth_OG.grad, wanted_s, rtol=1e-4, atol=1e-5)
    if not symmetric:
        assert weight.shift_OG is not None
        torch.testing.assert_close(weight.shift_OG.grad, wanted_m, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_stay_float16_and_removed_weights_stay_zero_whatever_moves(symmetric: bool) -> None:
    weight, mask_OI = weight_of(symmetric, 0.5)
    first_OG = weight.scale_OG.clone()
    with torch.no_grad():
        for each in (weight.growth_OG, *([] if weight.shift_OG is None else [weight.shift_OG])):
            each.add_(torch.linspace(-0.3, 0.3, each.numel()).view_as(each))
    weight.refresh()
    assert not torch.equal(weight.scale_OG, first_OG)
    for values in (weight.scale_OG, weight.minimum_OG):
        assert values is None or torch.equal(values, values.half().float())
    assert not weight.working_OI[~mask_OI].any()
    assert weight.quantized().dequantize()[mask_OI].equal(weight.working_OI[mask_OI])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_a_snapshot_gives_back_what_was_computed_with(symmetric: bool, kept: float) -> None:
    weight, _ = weight_of(symmetric, kept)
    weight.adapter = Adapter((ROWS, COLUMNS), 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight.adapter.left_OR.fill_(0.2)
        weight.growth_OG.fill_(0.1)
    weight.refresh()
    working_OI, snapshot = weight.working_OI.clone(), weight.snapshot()
    with torch.no_grad():
        weight.values_n.mul_(2)
    weight.refresh()
    assert not torch.equal(weight.working_OI, working_OI)
    weight.restore(snapshot)
    assert torch.equal(weight.working_OI, working_OI)
    weight.refresh()
    assert torch.equal(weight.working_OI, working_OI)


def test_a_group_of_zeros_stays_one() -> None:
    weight_OI = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    weight_OI[:, :32] = 0
    weight = GridWeight(quantize(weight_OI, Grid(bits=4, group_size=32)), torch.ones(4, 64, dtype=torch.bool))
    weight.values_n.grad = torch.ones_like(weight.values_n)
    weight.settle()
    with torch.no_grad():
        weight.values_n.sub_(weight.values_n.grad)
        weight.growth_OG.add_(0.5)
    weight.refresh()
    assert not weight.working_OI[:, :32].any()
    assert not weight.values_n.grad.view(4, 64)[:, :32].any()


def test_where_zero_means_removed_a_kept_weight_may_become_removed_and_no_other_comes_back() -> None:
    generator = torch.Generator().manual_seed(0)
    mask_OI = torch.rand(16, 64, generator=generator) < 0.97
    weight_OI = torch.randn(16, 64, generator=generator)
    quantized = quantize(weight_OI, Grid(bits=8, group_size=32), mask_OI=mask_OI)
    mask_OI &= quantized.codes_OI != 128
    packed = IntegerWeight.pack(quantized, mask_OI)
    weight = GridWeight(quantized, mask_OI)
    with torch.no_grad():
        weight.values_n[:5] = 0.0
    weight.refresh()
    again = repack(packed.meta(), weight.working_OI, mask_OI, weight.quantized())
    assert torch.equal(again.unpack(), weight.working_OI)
    assert int(again.mask().sum()) == int(mask_OI.sum()) - 5
    assert not again.mask()[~mask_OI].any()
