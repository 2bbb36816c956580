import pytest
import torch

from gossamer.errors import RecipeError
from gossamer.methods import gptq, magnitude, rtn
from gossamer.methods.gptq import GPTQ
from gossamer.methods.rtn import RTN
from gossamer.methods.solve.layer_weight import LayerWeight
from tests.methods.cases import weight_and_gram


def weights(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def test_the_weight_is_what_its_codes_say():
    layer = rtn.apply(LayerWeight(weights(6, 64)), None, RTN(bits=3, group_size=32), [])
    assert torch.equal(layer.weight_OI, layer.quantized.dequantize())
    assert layer.mask_OI is None
    assert (layer.weight_OI - weights(6, 64)).abs().max() < 0.05


def test_eight_bits_lose_little():
    layer = rtn.apply(LayerWeight(weights(32, 128)), None, RTN(bits=8), [])
    error = (layer.weight_OI - weights(32, 128)).norm() / weights(32, 128).norm()
    assert error < 0.01


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_mask_is_preserved_exactly(symmetric):
    pruned = magnitude.apply(LayerWeight(weights(6, 64)), None, magnitude.Magnitude(pattern="2:4"), [])
    layer = rtn.apply(pruned, None, RTN(symmetric=symmetric), [])
    assert torch.equal(layer.mask_OI, pruned.mask_OI)
    assert torch.equal(layer.weight_OI, layer.quantized.dequantize() * layer.mask_OI)
    zero_code = 8 if symmetric else 0
    assert (layer.quantized.codes_OI[~layer.mask_OI] == zero_code).all()


def test_quantizing_twice_is_refused():
    layer = rtn.apply(LayerWeight(weights(2, 64)), None, RTN(), [])
    with pytest.raises(RecipeError, match="only once"):
        rtn.apply(layer, None, RTN(), [])


@pytest.mark.parametrize("factor", [1e-9, 1e9])
@pytest.mark.parametrize("method", [rtn, gptq])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_matrix_whose_scales_float16_cannot_hold_stays_as_it_is_and_says_so(factor, method, symmetric):
    weight_OI, gram = weight_and_gram(6, 64)
    layer, notes = LayerWeight(weight_OI * factor), []
    settings = (RTN if method is rtn else GPTQ)(bits=8, symmetric=symmetric)
    assert method.apply(layer, gram, settings, notes) is layer
    (note,) = notes
    assert "not quantized: 6 of its 6 scales of 8 bits" in note and "outside of float16" in note
