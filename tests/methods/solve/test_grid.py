"""Grids: exact where the data lies on one, within half a step elsewhere, never NaN."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gossamer.errors import RecipeError
from gossamer.methods.solve.grid import Grid, fit, float16_holds, quantize


def weights(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def is_float16(values):
    return torch.equal(values.half().float(), values)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    search=st.booleans(),
    group=st.sampled_from([32, 64, None]),
    masked=st.booleans(),
    exponent=st.integers(-40, 15),
    seed=st.integers(0, 999),
)
def test_codes_are_the_nearest_on_a_float16_grid(bits, symmetric, search, group, masked, exponent, seed):
    weight_OI = weights(3, 128, seed=seed) * 2.0**exponent
    mask_OI = weights(3, 128, seed=seed + 1) > 0 if masked else None
    grid = Grid(bits=bits, symmetric=symmetric, search=search, group_size=group)
    quantized = quantize(weight_OI, grid, mask_OI=mask_OI)
    assert quantized.codes_OI.dtype == torch.uint8
    assert int(quantized.codes_OI.max()) < 2**bits
    assert is_float16(quantized.scale_OG)
    assert quantized.symmetric == symmetric
    assert symmetric or is_float16(quantized.minimum_OG)
    value_OI = quantized.dequantize()
    assert torch.isfinite(value_OI).all()
    levels = np.arange(2**bits) - (
        2 ** (bits - 1) if symmetric else 0
    )  # every value the group could have had
    size = group or 128
    for row in range(3):
        for column in range(128):
            scale = quantized.scale_OG[row, column // size].item()
            minimum = 0.0 if symmetric else quantized.minimum_OG[row, column // size].item()
            w = weight_OI[row, column].item()
            nearest = np.abs(scale * levels + minimum - w).min()
            assert abs(value_OI[row, column].item() - w) <= nearest * (1 + 1e-5) + abs(scale) * 1e-4 + 1e-30


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8),
    scale=st.floats(2.0**-12, 1.0),
    offset=st.floats(-30.0, 30.0),
    search=st.booleans(),
    seed=st.integers(0, 9999),
)
def test_data_on_an_asymmetric_float16_grid_is_reproduced_bit_for_bit(bits, scale, offset, search, seed):
    scale = torch.tensor(scale).half().float()
    minimum = (scale * offset).half().float()
    codes = torch.randint(0, 2**bits, (5, 64), generator=torch.Generator().manual_seed(seed))
    codes[:, 0::32], codes[:, 31::32] = 0, 2**bits - 1
    weight_OI = scale * codes.float() + minimum
    quantized = quantize(weight_OI, Grid(bits=bits, symmetric=False, group_size=32, search=search))
    assert torch.equal(quantized.dequantize(), weight_OI)
    assert torch.equal(quantized.codes_OI, codes.to(torch.uint8))


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(2, 8), scale=st.floats(-1.0, 1.0), seed=st.integers(0, 9999))
def test_data_on_a_symmetric_float16_grid_is_reproduced_bit_for_bit(bits, scale, seed):
    scale = torch.tensor(scale).half().float()
    codes = torch.randint(0, 2**bits, (5, 64), generator=torch.Generator().manual_seed(seed))
    codes[:, 0::32] = 0
    weight_OI = scale * (codes.float() - 2 ** (bits - 1))
    quantized = quantize(weight_OI, Grid(bits=bits, group_size=32))
    assert torch.equal(quantized.dequantize(), weight_OI)


@pytest.mark.parametrize("symmetric", [True, False])
def test_only_kept_weights_choose_the_scale(symmetric):
    weight_OI = weights(4, 64)
    mask_OI = torch.ones(4, 64, dtype=torch.bool)
    mask_OI[:, ::2] = False
    spoiled_OI = torch.where(mask_OI, weight_OI, 99.0)
    grid = Grid(symmetric=symmetric, group_size=32)
    clean, spoiled = (quantize(w, grid, mask_OI=mask_OI) for w in (weight_OI, spoiled_OI))
    assert torch.equal(clean.scale_OG, spoiled.scale_OG)
    assert torch.equal(clean.dequantize()[mask_OI], spoiled.dequantize()[mask_OI])


def test_the_minimum_of_a_pruned_group_comes_from_kept_weights():
    weight_OI = weights(4, 32).abs() + 1.0
    mask_OI = weights(4, 32, seed=1) > 0
    quantized = quantize(weight_OI * mask_OI, Grid(symmetric=False, group_size=32), mask_OI=mask_OI)
    assert (quantized.minimum_OG >= 0.99).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("search", [True, False])
def test_groups_of_zeros_and_groups_without_kept_weights_stay_finite_and_zero(symmetric, search):
    weight_OI = weights(2, 96)
    weight_OI[:, :32] = 0.0
    mask_OI = torch.ones(2, 96, dtype=torch.bool)
    mask_OI[:, 32:64] = False
    grid = Grid(symmetric=symmetric, search=search, group_size=32)
    quantized = quantize(weight_OI * mask_OI, grid, mask_OI=mask_OI)
    assert torch.isfinite(quantized.scale_OG).all()
    assert (quantized.dequantize()[:, :64] == 0).all()
    assert (quantized.scale_OG[:, :2] == 0).all()


def test_values_beyond_float16_and_below_it_stay_finite():
    for factor in (1e30, 1e-30):
        for symmetric in (True, False):
            quantized = quantize(weights(2, 32) * factor, Grid(symmetric=symmetric, group_size=32))
            assert torch.isfinite(quantized.dequantize()).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_search_never_raises_the_weighted_error_and_lowers_it_for_few_bits(bits, symmetric):
    weight_OI = weights(64, 64)
    importance_I = torch.rand(64, generator=torch.Generator().manual_seed(2))
    errors = []
    for search in (False, True):
        grid = Grid(bits=bits, symmetric=symmetric, search=search, group_size=64)
        value_OI = quantize(weight_OI, grid, importance_I).dequantize()
        errors.append(((value_OI - weight_OI).square() * importance_I).sum(1))
    assert (errors[1] <= errors[0] * (1 + 1e-6)).all()
    assert bits == 8 or errors[1].sum() < 0.95 * errors[0].sum()


def test_the_weight_of_largest_magnitude_takes_the_longer_end_of_the_range():
    for sign in (1.0, -1.0):
        weight_Ng = torch.tensor([[0.1, -0.2, 0.3, 0.8]]) * sign
        scale_N, minimum_N = fit(weight_Ng, Grid(search=False))
        assert minimum_N is None
        assert scale_N.item() == pytest.approx(-0.1 * sign, rel=1e-3)


@pytest.mark.parametrize("size", [64, 48, 16, 0, -32])
def test_group_sizes_that_do_not_fit_are_refused(size):
    if size % 32 or size <= 0:
        with pytest.raises(ValidationError):
            Grid(group_size=size)
    else:
        with pytest.raises(RecipeError, match=r"64 does not divide the 96 inputs .* one of \[32, 96\]"):
            Grid(group_size=size).size_for(96)


def test_one_scale_for_each_row_fits_any_width():
    assert Grid(group_size=None).size_for(7) == 7
    assert quantize(weights(3, 7), Grid(group_size=None)).scale_OG.shape == (3, 1)
    with pytest.raises(RecipeError, match="Use group_size null"):
        Grid().size_for(100)


@pytest.mark.parametrize("settings", [{"bits": 1}, {"bits": 9}, {"groupsize": 64}, {"bits": 4.5}])
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ValidationError):
        Grid(**settings)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(
    ("factor", "held"), [(1.0, True), (1e-2, True), (0.0, True), (1e-8, False), (1e9, False)]
)
def test_float16_holds_the_scales_of_ordinary_weights_only(symmetric, bits, factor, held):
    notes = []
    grid = Grid(bits=bits, group_size=32, symmetric=symmetric)
    assert float16_holds(weights(8, 64) * factor, grid, notes) is held
    assert bool(notes) is not held


def test_dead_rows_among_others_do_not_decide():
    weight_OI, notes = weights(16, 64), []
    weight_OI[3] *= 1e-9
    assert float16_holds(weight_OI, Grid(bits=8), notes) and not notes
    weight_OI = weights(16, 64) * 1e-9
    weight_OI[3] *= 1e9  # what is lost in all others is nothing beside the rounding of this row
    assert float16_holds(weight_OI, Grid(bits=8), notes) and not notes


def test_one_row_that_is_too_large_decides():
    weight_OI, notes = weights(16, 64), []
    weight_OI[3] *= 1e9
    assert not float16_holds(weight_OI, Grid(bits=8), notes)
    assert "1 of its 16 scales" in notes[0]


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8), symmetric=st.booleans(), exponent=st.integers(-60, 60), seed=st.integers(0, 999)
)
def test_where_float16_holds_the_scales_the_error_is_what_the_bits_allow(bits, symmetric, exponent, seed):
    weight_OI = weights(4, 64, seed=seed) * 2.0**exponent
    grid = Grid(bits=bits, symmetric=symmetric, group_size=32)
    if float16_holds(weight_OI, grid, []):
        groups = weight_OI.reshape(-1, 32).double()
        step = (groups.amax(1) - groups.amin(1)) / (2**bits - 1)
        error = (quantize(weight_OI, grid).dequantize() - weight_OI).double().square().sum()
        assert error <= 6 * 32 * step.square().sum() / 12
