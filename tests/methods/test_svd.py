"""The truncated decomposition: factors in place of a weight."""

import pytest
import torch

from gossamer.errors import RecipeError
from gossamer.methods import rtn, svd
from gossamer.methods.rtn import RTN
from gossamer.methods.solve.error import relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.svd import SVD
from tests.methods.cases import weight_and_gram


def test_factors_alone_lose_less_than_those_of_the_weight_itself():
    weight_OI, gram = weight_and_gram(64, 128)
    layer = svd.apply(LayerWeight(weight_OI), gram, SVD(rank=16), [])
    assert not layer.mask_OI.any() and not layer.weight_OI.any()
    left, singular, right = torch.linalg.svd(weight_OI, full_matrices=False)
    plain_OI = (left[:, :16] * singular[:16]) @ right[:16]
    ours, plain = (
        relative_output_error(weight_OI, each, gram.value()) for each in (layer.whole_OI, plain_OI)
    )
    assert ours < 0.9 * plain


def test_the_share_says_how_many_parameters_are_left():
    weight_OI, gram = weight_and_gram(64, 128)
    layer = svd.apply(LayerWeight(weight_OI), gram, SVD(rank_share=0.25), [])
    assert layer.factors.rank == round(0.25 * 64 * 128 / 192)
    assert svd.apply(LayerWeight(weight_OI), gram, SVD(), []).factors.rank == round(0.5 * 64 * 128 / 192)


def test_a_weight_of_low_rank_comes_back():
    left_OR, gram = weight_and_gram(64, 8)
    right_IR, gram = weight_and_gram(96, 8, seed=1)
    _, gram = weight_and_gram(64, 96)
    weight_OI = left_OR @ right_IR.T
    layer = svd.apply(LayerWeight(weight_OI), gram, SVD(rank=8), [])
    torch.testing.assert_close(layer.whole_OI, weight_OI, atol=1e-3 * float(weight_OI.abs().max()), rtol=0)


def test_codes_are_refused():
    weight_OI, gram = weight_and_gram(16, 64)
    coded = rtn.apply(LayerWeight(weight_OI), None, RTN(group_size=32), [])
    with pytest.raises(RecipeError, match="quantized"):
        svd.apply(coded, gram, SVD(), [])
