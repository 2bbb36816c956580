"""Scales and codes after GPTQ: every step lowers the loss, and on small cases finds the best there is."""

import itertools

import pytest
import torch

from gossamer.formats.quantized import Quantized
from gossamer.methods.solve.descend import descend, fit_scales, improve
from gossamer.methods.solve.grid import Grid, quantize
from tests.methods import reference


def case(num_rows=12, num_inputs=128, symmetric=True, bits=3, masked=False, seed=0):
    matrix, _ = reference.correlated_gram(num_inputs, seed=seed)
    hessian_II = torch.from_numpy(reference.damped(matrix)).float()
    generator = torch.Generator().manual_seed(seed)
    target_OI = torch.randn(num_rows, num_inputs, generator=generator) * 0.05
    mask_OI = torch.rand(num_rows, num_inputs, generator=generator) > 0.5 if masked else None
    quantized = quantize(target_OI, Grid(bits=bits, group_size=32, symmetric=symmetric), None, mask_OI)
    return quantized, mask_OI, target_OI, hessian_II


def loss(quantized: Quantized, mask_OI, target_OI, hessian_II) -> torch.Tensor:
    error_OI = quantized.dequantize()
    if mask_OI is not None:
        error_OI = error_OI * mask_OI
    error_OI = error_OI - target_OI
    return ((error_OI @ hessian_II) * error_OI).sum(1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_no_row_loses_more_after_either_step(symmetric, masked):
    quantized, *rest = case(symmetric=symmetric, masked=masked)
    before = loss(quantized, *rest)
    for step in (fit_scales, descend, fit_scales, descend):
        quantized = step(quantized, *rest)
        after = loss(quantized, *rest)
        assert bool((after <= before * 1.0001).all())
        before = after
    assert torch.equal(quantized.scale_OG.half().float(), quantized.scale_OG)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_rounds_lower_the_loss_by_much(symmetric, masked):
    quantized, *rest = case(symmetric=symmetric, masked=masked)
    better = improve(quantized, *rest, rounds=3)
    assert float(loss(better, *rest).sum()) < 0.8 * float(loss(quantized, *rest).sum())
    assert int(better.codes_OI.max()) < 2**better.bits


def test_scales_are_the_least_squares_solution_for_their_codes():
    quantized, _, target_OI, hessian_II = case(num_rows=3)
    fitted = fit_scales(quantized, None, target_OI, hessian_II)
    codes_OI = quantized.codes_OI.double() - 4
    root_II = torch.linalg.cholesky(hessian_II.double()).T
    for row in range(3):
        columns = torch.zeros(128, 4, dtype=torch.float64)
        for group in range(4):
            columns[group * 32 : group * 32 + 32, group] = codes_OI[row, group * 32 : group * 32 + 32]
        exact = torch.linalg.lstsq(root_II @ columns, root_II @ target_OI[row].double()).solution
        torch.testing.assert_close(fitted.scale_OG[row].double(), exact, rtol=0.02, atol=1e-5)


def test_no_single_code_could_be_better_once_descent_has_settled():
    quantized, _, target_OI, hessian_II = case(num_rows=2, num_inputs=32, bits=2)
    for _ in range(20):
        quantized = descend(quantized, None, target_OI, hessian_II)
    best = loss(quantized, None, target_OI, hessian_II)
    for row, column, code in itertools.product(range(2), range(32), range(4)):
        codes_OI = quantized.codes_OI.clone()
        codes_OI[row, column] = code
        other = Quantized(codes_OI, quantized.scale_OG, None, 2, 32)
        assert loss(other, None, target_OI, hessian_II)[row] >= best[row] * 0.9999


def test_a_row_of_zeros_stays_zero():
    quantized, _, target_OI, hessian_II = case()
    target_OI[0] = 0.0
    quantized = quantize(target_OI, Grid(bits=3, group_size=32))
    better = improve(quantized, None, target_OI, hessian_II, rounds=2)
    assert not better.dequantize()[0].any()
