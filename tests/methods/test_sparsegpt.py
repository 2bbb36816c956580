"""SparseGPT against the published equations in float64, and the properties they promise."""

import numpy as np
import pytest
import torch

from gossamer.calibration.statistics import Gram
from gossamer.errors import CalibrationError, RecipeError
from gossamer.methods import magnitude, rtn, sparsegpt, wanda
from gossamer.methods.magnitude import Magnitude
from gossamer.methods.solve.error import relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.sparsegpt import SparseGPT
from gossamer.methods.wanda import Wanda
from tests.methods import reference
from tests.methods.cases import weight_and_gram


def case(num_rows=24, num_inputs=160, seed=0):
    return weight_and_gram(num_rows, num_inputs, seed)


def run(weight_OI, gram, **settings):
    return sparsegpt.apply(LayerWeight(weight_OI), gram, SparseGPT(**settings), [])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sparsity": 0.5}, {"sparsity": 0.5}),
        ({"sparsity": 0.7, "block_size": 48}, {"sparsity": 0.7, "block": 48}),
        ({"pattern": "2:4"}, {"sparsity": 0.5, "n_m": (2, 4)}),
        ({"pattern": "8:16", "damping": 0.1}, {"sparsity": 0.5, "n_m": (8, 16), "damping": 0.1}),
        ({"pattern": "1:5"}, {"sparsity": 0.8, "n_m": (1, 5)}),
    ],
)
def test_masks_and_weights_equal_the_published_equations(settings, expected, seed):
    weight_OI, gram = case(seed=seed)
    layer = run(weight_OI, gram, **settings)
    weight, mask = reference.sparsegpt(weight_OI.double().numpy(), gram.value().double().numpy(), **expected)
    same = (layer.mask_OI.numpy() == mask).all(axis=1)  # a tie may fall otherwise in float32
    assert same.mean() >= 0.9
    np.testing.assert_allclose(layer.weight_OI.numpy()[same], weight[same], atol=2e-5)


def test_one_pruned_weight_gets_the_closed_form_update_of_optimal_brain_surgery():
    weight_OI, gram = case(num_rows=1, num_inputs=8)
    already = torch.ones(1, 8, dtype=torch.bool)
    already[0, 0] = False
    # input 0 is to be pruned: w - w_0 / [H^-1]_00 * H^-1[0] minimises the output error with w_0 = 0
    layer = sparsegpt.apply(LayerWeight(weight_OI, already), gram, SparseGPT(sparsity=1 / 8), [])
    inverse = np.linalg.inv(reference.damped(gram.value().double().numpy()))
    w = weight_OI[0].double().numpy()
    np.testing.assert_allclose(layer.weight_OI[0].numpy(), w - w[0] / inverse[0, 0] * inverse[0], atol=1e-6)
    assert layer.weight_OI[0, 0] == 0


def test_the_kept_weights_after_one_pruned_input_are_least_squares_optimal():
    weight_OI, gram = case(num_rows=3, num_inputs=12)
    already = torch.ones(3, 12, dtype=torch.bool)
    already[:, 0] = False
    layer = sparsegpt.apply(LayerWeight(weight_OI, already), gram, SparseGPT(sparsity=1 / 12), [])
    hessian = reference.damped(gram.value().double().numpy())
    w = weight_OI.double().numpy()
    best = w[:, 1:] + np.linalg.solve(hessian[1:, 1:], hessian[1:, :1] @ w[:, :1].T).T
    np.testing.assert_allclose(layer.weight_OI[:, 1:].numpy(), best, atol=1e-6)


@pytest.mark.parametrize("pattern", ["unstructured", "row", "2:4", "8:16", "4:16", "block 2x8"])
def test_sparsegpt_beats_wanda_beats_magnitude_in_output_error(pattern):
    weight_OI, gram = case(num_rows=64, num_inputs=128)
    errors = []
    for method, settings in ((magnitude, Magnitude), (wanda, Wanda), (sparsegpt, SparseGPT)):
        layer = method.apply(LayerWeight(weight_OI), gram, settings(pattern=pattern), [])
        errors.append(relative_output_error(weight_OI, layer.weight_OI, gram.value()))
    assert errors[0] > errors[1] > errors[2]


def test_counts_are_exact_over_blocks_that_do_not_divide():
    weight_OI, gram = case(num_rows=7, num_inputs=150)
    for sparsity in (0.3, 0.5, 0.61, 0.9):
        assert run(weight_OI, gram, sparsity=sparsity).mask_OI.sum() == round((1 - sparsity) * 7 * 150)
        rows = run(weight_OI, gram, sparsity=sparsity, pattern="row").mask_OI.sum(1)
        assert (rows == round((1 - sparsity) * 150)).all()
    cells = run(weight_OI, gram, sparsity=0.5, pattern="block 3x7").mask_OI[::3, ::7]
    assert cells.sum() == round(0.5 * 3 * 22)


def test_zeros_are_exact_and_the_input_is_not_changed():
    weight_OI, gram = case()
    before = weight_OI.clone()
    layer = run(weight_OI, gram)
    assert torch.equal(weight_OI, before)
    assert (layer.weight_OI[~layer.mask_OI] == 0).all()
    assert layer.weight_OI.is_contiguous()


def test_a_second_step_keeps_zeros_zero():
    weight_OI, gram = case()
    first = run(weight_OI, gram, pattern="8:16")
    second = sparsegpt.apply(first, gram, SparseGPT(sparsity=0.7), [])
    assert not (second.mask_OI & ~first.mask_OI).any()
    assert (second.weight_OI[~second.mask_OI] == 0).all()
    assert second.mask_OI.sum() == round(0.3 * weight_OI.numel())


def test_dead_inputs_lose_their_weights_and_are_reported():
    weight_OI, _ = case(num_inputs=32)
    gram = Gram(32)
    x_TI = torch.randn(64, 32, generator=torch.Generator().manual_seed(5))
    x_TI[:, 4] = 0
    gram.update(x_TI)
    notes = []
    layer = sparsegpt.apply(LayerWeight(weight_OI), gram, SparseGPT(), notes)
    assert notes == ["1 of 32 inputs are zero in all calibration data"]
    assert (layer.weight_OI[:, 4] == 0).all()
    assert not layer.mask_OI[:, 4].any()
    assert torch.isfinite(layer.weight_OI).all()


def test_fewer_tokens_than_inputs_still_work():
    weight_OI, _ = case(num_inputs=64)
    gram = Gram(64)
    gram.update(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(run(weight_OI, gram).weight_OI).all()


def test_no_tokens_and_quantized_layers_are_refused():
    weight_OI, gram = case(num_inputs=64)
    with pytest.raises(CalibrationError, match="no calibration token"):
        run(weight_OI, Gram(64))
    layer = rtn.apply(LayerWeight(weight_OI), None, rtn.RTN(), [])
    with pytest.raises(RecipeError, match="quantize last"):
        sparsegpt.apply(layer, gram, SparseGPT(), [])
