"""EoRA: the published projection, on whatever the steps before have made of a weight."""

import numpy as np
import pytest
import torch

from gossamer.errors import CheckpointError
from gossamer.methods import basil, eora, gptq, rtn, wanda
from gossamer.methods.basil import BASiL
from gossamer.methods.eora import EoRA
from gossamer.methods.gptq import GPTQ
from gossamer.methods.rtn import RTN
from gossamer.methods.solve.error import relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.wanda import Wanda
from tests.methods import reference
from tests.methods.cases import weight_and_gram


def test_the_factors_are_the_projection_on_the_eigenvectors_of_the_gram_matrix():
    weight_OI, gram = weight_and_gram(40, 96)
    pruned = wanda.apply(LayerWeight(weight_OI), gram, Wanda(sparsity=0.6), [])
    layer = eora.apply(pruned, gram, EoRA(rank=6), [])
    missing = (weight_OI - pruned.weight_OI).double().numpy()
    hessian = reference.damped(gram.value().double().numpy())
    expected = reference.eora(missing, hessian, 6)
    np.testing.assert_allclose(layer.factors.product().numpy(), expected, atol=2e-3 * np.abs(expected).max())


def test_the_compressed_weight_is_left_as_it_is_and_the_outputs_come_closer():
    weight_OI, gram = weight_and_gram(40, 96)
    layer = wanda.apply(LayerWeight(weight_OI), gram, Wanda(sparsity=0.5), [])
    layer = gptq.apply(layer, gram, GPTQ(group_size=32), [])
    corrected = eora.apply(layer, gram, EoRA(rank=10), [])
    for name in ("weight_OI", "mask_OI", "quantized"):
        assert getattr(corrected, name) is getattr(layer, name)
    before, after = (
        relative_output_error(weight_OI, each.whole_OI, gram.value()) for each in (layer, corrected)
    )
    assert after < 0.8 * before


def test_factors_that_are_there_are_fitted_anew_to_what_quantizing_took():
    weight_OI, gram = weight_and_gram(40, 96)
    sparse = basil.apply(LayerWeight(weight_OI), gram, BASiL(sparsity=0.5, rank=6), [])
    layer = gptq.apply(sparse, gram, GPTQ(bits=3, group_size=32), [])
    corrected = eora.apply(layer, gram, EoRA(rank=6), [])
    assert corrected.factors.rank == 6
    torch.testing.assert_close(corrected.whole_target_OI, layer.whole_target_OI)
    before, after = (
        relative_output_error(weight_OI, each.whole_OI, gram.value()) for each in (layer, corrected)
    )
    assert after < before


def test_where_nothing_was_taken_nothing_is_given_back():
    weight_OI, gram = weight_and_gram(8, 64)
    notes = []
    assert eora.apply(LayerWeight(weight_OI), gram, EoRA(), notes).factors is None
    assert "nothing to give back" in notes[0]


def test_dead_inputs_do_no_harm_and_weights_that_are_not_finite_are_refused():
    weight_OI, gram = weight_and_gram(24, 64)
    gram.sum_II[3] = gram.sum_II[:, 3] = 0.0
    layer = eora.apply(
        rtn.apply(LayerWeight(weight_OI), None, RTN(bits=2, group_size=32), []), gram, EoRA(), []
    )
    assert bool(layer.factors.product().isfinite().all())
    weight_OI[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="eora"):
        eora.apply(LayerWeight(weight_OI), gram, EoRA(), [])
