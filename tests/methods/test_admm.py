"""ADMM and the refit on a fixed mask: optimal where a closed form says what that is, and better than SparseGPT."""

import numpy as np
import pytest
import torch

from gossamer.errors import RecipeError
from gossamer.methods import admm, refit, rtn, sparsegpt, wanda
from gossamer.methods.admm import ADMM
from gossamer.methods.refit import Refit
from gossamer.methods.rtn import RTN
from gossamer.methods.solve.error import relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.sparsegpt import SparseGPT
from gossamer.methods.wanda import Wanda
from tests.methods import reference
from tests.methods.cases import weight_and_gram

PATTERNS = ["unstructured", "row", "8:16", "2:4", "block 1x8"]


def case(num_rows=24, num_inputs=160, seed=0):
    return weight_and_gram(num_rows, num_inputs, seed)


def test_the_refit_finds_the_closed_form_solution_on_the_support_of_each_row():
    weight_OI, gram = case()
    pruned = wanda.apply(LayerWeight(weight_OI), gram, Wanda(sparsity=0.6), [])
    fitted = refit.apply(pruned, gram, Refit(iterations=300), [])
    hessian = reference.damped(gram.value().double().numpy())
    for row, kept, target in zip(fitted.weight_OI, pruned.mask_OI, weight_OI.double().numpy(), strict=True):
        kept = kept.numpy()
        exact = np.linalg.solve(hessian[np.ix_(kept, kept)], hessian[kept] @ target)
        np.testing.assert_allclose(row.numpy()[kept], exact, atol=2e-5)
        assert not row.numpy()[~kept].any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_admm_keeps_exactly_what_the_pattern_says_and_loses_less_than_sparsegpt(pattern):
    weight_OI, gram = case(num_rows=48)
    target = {"pattern": pattern, "sparsity": 0.5}
    ours = admm.apply(LayerWeight(weight_OI), gram, ADMM(**target), [])
    theirs = sparsegpt.apply(LayerWeight(weight_OI), gram, SparseGPT(**target), [])
    assert int(ours.mask_OI.sum()) == int(theirs.mask_OI.sum())
    assert not ours.weight_OI[~ours.mask_OI].any()
    errors = [relative_output_error(weight_OI, layer.weight_OI, gram.value()) for layer in (ours, theirs)]
    assert errors[0] < 0.95 * errors[1]


def test_admm_prunes_only_within_a_mask_that_it_is_given():
    weight_OI, gram = case()
    first = wanda.apply(LayerWeight(weight_OI), gram, Wanda(sparsity=0.3), [])
    second = admm.apply(first, gram, ADMM(sparsity=0.6), [])
    assert not bool((second.mask_OI & ~first.mask_OI).any())
    assert int(second.mask_OI.sum()) == round(0.4 * weight_OI.numel())


def test_more_refit_never_loses_more():
    weight_OI, gram = case()
    errors = [
        relative_output_error(
            weight_OI,
            admm.apply(
                LayerWeight(weight_OI), gram, ADMM(sparsity=0.7, refit=steps, damping=0.0), []
            ).weight_OI,
            gram.value(),
        )
        for steps in (0, 2, 20)
    ]
    assert errors[0] > errors[1] >= errors[2]


def test_without_a_mask_there_is_nothing_to_refit_and_codes_are_refused():
    weight_OI, gram = case()
    assert torch.equal(refit.apply(LayerWeight(weight_OI), gram, Refit(), []).weight_OI, weight_OI)
    coded = rtn.apply(LayerWeight(weight_OI), None, RTN(group_size=32), [])
    for method, settings in ((admm, ADMM()), (refit, Refit())):
        with pytest.raises(RecipeError, match="quantized"):
            method.apply(coded, gram, settings, [])


def test_dead_inputs_do_no_harm():
    weight_OI, gram = case()
    gram.sum_II[3] = gram.sum_II[:, 3] = 0.0
    layer = admm.apply(LayerWeight(weight_OI), gram, ADMM(sparsity=0.5), [])
    assert bool(torch.isfinite(layer.weight_OI).all())
    assert relative_output_error(weight_OI, layer.weight_OI, gram.value()) < 0.3
