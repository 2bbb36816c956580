import numpy as np
import pytest
import torch

from gossamer.calibration.statistics import Gram, InputNorm
from gossamer.errors import RecipeError
from gossamer.methods import rtn, wanda
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.wanda import Wanda


def case(num_rows=12, num_inputs=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_TI = torch.randn(100, num_inputs, generator=generator) * torch.rand(num_inputs, generator=generator)
    norm = InputNorm(num_inputs)
    norm.update(x_TI)
    return torch.randn(num_rows, num_inputs, generator=generator), x_TI, norm


def test_each_row_keeps_its_largest_products_of_weight_and_norm():
    weight_OI, x_TI, norm = case()
    layer = wanda.apply(LayerWeight(weight_OI), norm, Wanda(sparsity=0.6), [])
    score = np.abs(weight_OI.double().numpy()) * np.linalg.norm(x_TI.double().numpy(), axis=0)
    for row in range(12):
        assert set(np.argsort(-score[row])[:16]) == set(np.flatnonzero(layer.mask_OI[row].numpy()))
    assert torch.equal(layer.weight_OI, torch.where(layer.mask_OI, weight_OI, 0.0))


def test_nm_keeps_the_largest_products_of_each_window():
    weight_OI, x_TI, norm = case()
    layer = wanda.apply(LayerWeight(weight_OI), norm, Wanda(pattern="2:4"), [])
    score = (weight_OI.abs() * x_TI.norm(dim=0)).view(12, 10, 4)
    expected = torch.zeros(12, 10, 4, dtype=torch.bool).scatter_(2, score.topk(2, dim=2).indices, True)
    assert torch.equal(layer.mask_OI, expected.view(12, 40))


def test_a_gram_matrix_serves_as_well_as_the_norms():
    weight_OI, x_TI, norm = case()
    gram = Gram(40)
    gram.update(x_TI)
    masks = [wanda.apply(LayerWeight(weight_OI), s, Wanda(), []).mask_OI for s in (norm, gram)]
    assert torch.equal(*masks)


def test_dead_inputs_are_pruned_first_and_reported():
    weight_OI, x_TI, _ = case()
    x_TI[:, [3, 5]] = 0
    norm = InputNorm(40)
    norm.update(x_TI)
    notes = []
    layer = wanda.apply(LayerWeight(weight_OI), norm, Wanda(sparsity=0.05), notes)
    assert not layer.mask_OI[:, [3, 5]].any()
    assert layer.mask_OI.sum() == 12 * 38
    assert notes == ["2 of 40 inputs are zero in all calibration data: pruned first"]


def test_an_earlier_mask_is_respected():
    weight_OI, _, norm = case()
    first = wanda.apply(LayerWeight(weight_OI), norm, Wanda(pattern="4:8"), [])
    second = wanda.apply(first, norm, Wanda(sparsity=0.75), [])
    assert (second.mask_OI.sum(1) == 10).all()
    assert not (second.mask_OI & ~first.mask_OI).any()


def test_pruning_after_quantizing_is_refused():
    weight_OI, _, norm = case()
    layer = rtn.apply(LayerWeight(weight_OI), None, rtn.RTN(group_size=None), [])
    with pytest.raises(RecipeError, match="quantize last"):
        wanda.apply(layer, norm, Wanda(), [])
