"""3BASiL: both parts together are better than one after the other, and both are optimal for each other."""

import pytest
import torch

from gossamer.errors import RecipeError
from gossamer.methods import admm, basil, eora, oats, rtn, wanda
from gossamer.methods.admm import ADMM
from gossamer.methods.basil import BASiL
from gossamer.methods.eora import EoRA
from gossamer.methods.oats import OATS
from gossamer.methods.rtn import RTN
from gossamer.methods.solve.error import relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.linear_algebra import damped_factor
from gossamer.methods.solve.low_rank import best_factors
from gossamer.methods.wanda import Wanda
from tests.methods.cases import weight_and_gram


@pytest.mark.parametrize("pattern", ["unstructured", "row", "8:16", "2:4", "block 1x8"])
def test_it_loses_less_than_pruning_first_and_than_oats_for_the_same_zeros_and_rank(pattern):
    weight_OI, gram = weight_and_gram(48, 160)
    target = {"pattern": pattern, "sparsity": 0.5}
    ours = basil.apply(LayerWeight(weight_OI), gram, BASiL(**target, rank=6), [])
    pruned = admm.apply(LayerWeight(weight_OI), gram, ADMM(**target), [])
    after = eora.apply(pruned, gram, EoRA(rank=6), [])
    by_turns = oats.apply(LayerWeight(weight_OI), gram, OATS(**target, rank=6), [])
    assert int(ours.mask_OI.sum()) == int(pruned.mask_OI.sum()) == weight_OI.numel() // 2
    assert not ours.weight_OI[~ours.mask_OI].any()
    assert ours.factors.rank == after.factors.rank == by_turns.factors.rank == 6
    error, *others = (
        relative_output_error(weight_OI, layer.whole_OI, gram.value()) for layer in (ours, after, by_turns)
    )
    assert error < 0.9 * min(others)


def test_the_low_rank_part_is_the_best_one_for_the_sparse_part():
    weight_OI, gram = weight_and_gram(48, 96)
    layer = basil.apply(LayerWeight(weight_OI), gram, BASiL(sparsity=0.5, rank=6), [])
    best = best_factors(
        weight_OI - layer.weight_OI, damped_factor(gram.value(), 0.01, []).damped_II.float(), 6
    )
    ours = relative_output_error(weight_OI, layer.whole_OI, gram.value())
    assert ours < 1.03 * relative_output_error(weight_OI, layer.weight_OI + best.product(), gram.value())


def test_more_turns_of_the_refit_never_lose_more():
    weight_OI, gram = weight_and_gram(48, 96)
    errors = []
    for turns in (0, 1, 6):
        settings = BASiL(sparsity=0.7, rank=6, refit=turns, damping=0.0)
        layer = basil.apply(LayerWeight(weight_OI), gram, settings, [])
        errors.append(relative_output_error(weight_OI, layer.whole_OI, gram.value()))
    assert errors[0] > errors[1] > errors[2]


def test_it_prunes_only_within_a_mask_that_it_is_given_and_refuses_codes():
    weight_OI, gram = weight_and_gram(24, 160)
    first = wanda.apply(LayerWeight(weight_OI), gram, Wanda(sparsity=0.3), [])
    second = basil.apply(first, gram, BASiL(sparsity=0.6, rank=3), [])
    assert not bool((second.mask_OI & ~first.mask_OI).any())
    assert int(second.mask_OI.sum()) == round(0.4 * weight_OI.numel())
    coded = rtn.apply(LayerWeight(weight_OI), None, RTN(group_size=32), [])
    with pytest.raises(RecipeError, match="quantized"):
        basil.apply(coded, gram, BASiL(), [])


def test_dead_inputs_do_no_harm():
    weight_OI, gram = weight_and_gram(24, 64)
    gram.sum_II[3] = gram.sum_II[:, 3] = 0.0
    layer = basil.apply(LayerWeight(weight_OI), gram, BASiL(rank=3), [])
    assert bool(torch.isfinite(layer.whole_OI).all())
    assert relative_output_error(weight_OI, layer.whole_OI, gram.value()) < 0.3
