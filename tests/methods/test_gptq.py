"""GPTQ against the published equations in float64, and the properties they promise."""

import numpy as np
import pytest
import torch

from gossamer.calibration.statistics import Gram
from gossamer.errors import RecipeError
from gossamer.methods import gptq, rtn, sparsegpt
from gossamer.methods.gptq import GPTQ
from gossamer.methods.rtn import RTN
from gossamer.methods.solve.error import relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.sparsegpt import SparseGPT
from tests.methods import reference
from tests.methods.cases import weight_and_gram


def case(num_rows=24, num_inputs=192, seed=0):
    return weight_and_gram(num_rows, num_inputs, seed)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("bits", "group", "damping"),
    [(4, 32, 0.01), (3, 64, 0.1), (4, None, 0.01), (8, 192, 0.01), (2, 96, 0.01)],
)
def test_codes_and_weights_equal_the_published_equations(bits, group, damping, sparse):
    weight_OI, gram = case()
    layer = LayerWeight(weight_OI)
    if sparse:
        layer = sparsegpt.apply(layer, gram, SparseGPT(pattern="8:16"), [])
    settings = GPTQ(bits=bits, group_size=group, damping=damping, search=False, act_order=False, rounds=0)
    result = gptq.apply(layer, gram, settings, [])
    weight, codes = reference.gptq(
        layer.weight_OI.double().numpy(),
        gram.value().double().numpy(),
        bits=bits,
        group=group or 192,
        mask=layer.mask_OI.numpy() if sparse else None,
        damping=damping,
    )
    kept = np.ones(weight.shape, bool) if layer.mask_OI is None else layer.mask_OI.numpy()
    same = ((result.quantized.codes_OI.numpy() == codes) | ~kept).all(axis=1)
    assert same.mean() >= 0.7  # a weight between two codes may fall otherwise in float32, and its row with it
    np.testing.assert_allclose(result.weight_OI.numpy()[same], weight[same], atol=1e-6)
    np.testing.assert_allclose(
        result.weight_OI.numpy(), weight, atol=2.1 * np.abs(weight).max() / 2 ** (bits - 1)
    )


def test_act_order_is_the_same_equations_on_inputs_sorted_by_norm():
    weight_OI, gram = case()
    matrix = gram.value().double().numpy()
    order = np.argsort(-np.diag(matrix), kind="stable")
    result = gptq.apply(
        LayerWeight(weight_OI), gram, GPTQ(group_size=None, damping=0.01, search=False, rounds=0), []
    )
    weight, codes = reference.gptq(
        weight_OI.double().numpy()[:, order], matrix[np.ix_(order, order)], bits=4, group=192
    )
    same = (result.quantized.codes_OI.numpy()[:, order] == codes).all(axis=1)
    assert same.mean() >= 0.7
    np.testing.assert_allclose(result.weight_OI.numpy()[:, order][same], weight[same], atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("group", [32, None])
def test_gptq_beats_round_to_nearest_in_output_error(symmetric, act_order, group):
    weight_OI, gram = case(num_rows=64)
    shared = {"bits": 4, "group_size": group, "symmetric": symmetric}
    layers = [
        rtn.apply(LayerWeight(weight_OI), None, RTN(**shared), []),
        gptq.apply(LayerWeight(weight_OI), gram, GPTQ(**shared, act_order=act_order), []),
    ]
    errors = [relative_output_error(weight_OI, layer.weight_OI, gram.value()) for layer in layers]
    assert errors[1] < 0.7 * errors[0]
    assert torch.equal(layers[1].weight_OI, layers[1].quantized.dequantize())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
def test_a_mask_is_preserved_exactly_and_feedback_still_pays(symmetric, act_order):
    weight_OI, gram = case(num_rows=64)
    pruned = sparsegpt.apply(LayerWeight(weight_OI), gram, SparseGPT(), [])
    shared = {"bits": 3, "group_size": 64, "symmetric": symmetric}
    rounded = rtn.apply(pruned, None, RTN(**shared), [])
    layer = gptq.apply(pruned, gram, GPTQ(**shared, act_order=act_order), [])
    assert torch.equal(layer.mask_OI, pruned.mask_OI)
    assert (layer.weight_OI[~layer.mask_OI] == 0).all()
    assert torch.equal(layer.weight_OI, layer.quantized.dequantize() * layer.mask_OI)
    errors = [relative_output_error(pruned.weight_OI, r.weight_OI, gram.value()) for r in (rounded, layer)]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("act_order", [True, False])
def test_weights_on_a_q4_1_grid_come_back_bit_for_bit(act_order):
    _, gram = case()
    generator = torch.Generator().manual_seed(3)
    codes_OI = torch.randint(0, 16, (24, 192), generator=generator)
    codes_OI[:, 0::32], codes_OI[:, 17::32] = 0, 15
    scale_OG = (torch.rand(24, 6, generator=generator) * 0.02 + 1e-4).half().float()
    minimum_OG = (-8.3 * scale_OG).half().float()
    weight_OI = scale_OG.repeat_interleave(32, 1) * codes_OI + minimum_OG.repeat_interleave(32, 1)
    settings = GPTQ(bits=4, group_size=32, symmetric=False, act_order=act_order)
    layer = gptq.apply(LayerWeight(weight_OI), gram, settings, [])
    assert torch.equal(layer.weight_OI, weight_OI)
    assert torch.equal(layer.quantized.codes_OI, codes_OI.to(torch.uint8))


def test_groups_that_were_pruned_whole_stay_finite():
    weight_OI, gram = case()
    mask_OI = torch.ones(24, 192, dtype=torch.bool)
    mask_OI[:5, 32:96] = False
    layer = LayerWeight(weight_OI * mask_OI, mask_OI)
    for symmetric in (True, False):
        result = gptq.apply(layer, gram, GPTQ(group_size=32, symmetric=symmetric), [])
        assert torch.isfinite(result.weight_OI).all()
        assert (result.quantized.scale_OG[:5, 1:3] == 0).all()
        assert (result.weight_OI[~mask_OI] == 0).all()


def test_dead_inputs_are_reported_and_keep_rounded_weights():
    weight_OI, _ = case(num_inputs=64)
    x_TI = torch.randn(256, 64, generator=torch.Generator().manual_seed(5))
    x_TI[:, 4] = 0
    gram = Gram(64)
    gram.update(x_TI)
    notes = []
    layer = gptq.apply(LayerWeight(weight_OI), gram, GPTQ(bits=8), notes)
    assert notes == ["1 of 64 inputs are zero in all calibration data"]
    assert torch.allclose(layer.weight_OI[:, 4], weight_OI[:, 4], atol=2e-3)


def test_a_group_that_does_not_divide_and_a_second_quantization_are_refused():
    weight_OI, gram = case(num_inputs=96)
    with pytest.raises(RecipeError, match=r"64 does not divide the 96 inputs"):
        gptq.apply(LayerWeight(weight_OI), gram, GPTQ(), [])
    layer = gptq.apply(LayerWeight(weight_OI), gram, GPTQ(group_size=32), [])
    with pytest.raises(RecipeError, match="quantize last"):
        gptq.apply(layer, gram, GPTQ(group_size=32), [])
