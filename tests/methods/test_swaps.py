"""SparseSwaps: the loss falls by exactly what a swap promises, and every pattern keeps its counts."""

import pytest
import torch

from gossamer.errors import RecipeError
from gossamer.methods import refit, rtn, swaps, wanda
from gossamer.methods.refit import Refit
from gossamer.methods.rtn import RTN
from gossamer.methods.solve.error import relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.swaps import Swaps, exchange
from gossamer.methods.wanda import Wanda
from tests.methods.cases import weight_and_gram


def case(num_rows=24, num_inputs=160, seed=0):
    return weight_and_gram(num_rows, num_inputs, seed)


def loss_of(mask_OI, weight_OI, hessian_II):
    error_OI = weight_OI.masked_fill(mask_OI, 0.0)
    return ((error_OI @ hessian_II) * error_OI).sum(1)


def test_one_exchange_is_the_best_of_all_pairs_of_a_row():
    weight_OI, gram = case(num_rows=5, num_inputs=12)
    hessian_II = gram.value()
    mask_OI = torch.zeros(5, 12, dtype=torch.bool)
    mask_OI[:, ::2] = True
    after_O = loss_of(exchange(mask_OI, None, weight_OI, hessian_II, 12, 1), weight_OI, hessian_II)
    for row in range(5):
        losses = [loss_of(mask_OI, weight_OI, hessian_II)[row]]
        for out in mask_OI[row].nonzero()[:, 0]:
            for into in (~mask_OI[row]).nonzero()[:, 0]:
                other_OI = mask_OI.clone()
                other_OI[row, out], other_OI[row, into] = False, True
                losses.append(loss_of(other_OI, weight_OI, hessian_II)[row])
        torch.testing.assert_close(after_O[row], torch.stack(losses).min(), rtol=1e-4, atol=1e-6)


def test_each_round_of_exchanges_lowers_the_loss_of_a_row_or_leaves_it():
    weight_OI, gram = case()
    hessian_II = gram.value()
    mask_OI = wanda.apply(LayerWeight(weight_OI), gram, Wanda(sparsity=0.6), []).mask_OI
    losses = [
        loss_of(exchange(mask_OI, None, weight_OI, hessian_II, 160, n), weight_OI, hessian_II)
        for n in (1, 5, 50)
    ]
    before = loss_of(mask_OI, weight_OI, hessian_II)
    for loss in losses:
        assert bool((loss <= before * (1 + 1e-5)).all())
        before = loss
    assert float(losses[-1].sum()) < 0.8 * float(loss_of(mask_OI, weight_OI, hessian_II).sum())


@pytest.mark.parametrize("pattern", ["unstructured", "row", "8:16", "2:4", "3:7"])
def test_the_pattern_is_kept_and_less_is_lost_than_by_wanda_refitted(pattern):
    weight_OI, gram = case(num_rows=48)
    target = {"pattern": pattern} if ":" in pattern else {"pattern": pattern, "sparsity": 0.5}
    ours = swaps.apply(LayerWeight(weight_OI), gram, Swaps(**target), [])
    theirs = wanda.apply(LayerWeight(weight_OI), gram, Wanda(**target), [])
    assert torch.equal(ours.mask_OI.sum(1), theirs.mask_OI.sum(1))
    if ":" in pattern:
        m = int(pattern.partition(":")[2])
        whole = 160 // m * m
        counts = [mask[:, :whole].reshape(48, -1, m).sum(2) for mask in (ours.mask_OI, theirs.mask_OI)]
        assert torch.equal(*counts)
    assert not ours.weight_OI[~ours.mask_OI].any()
    theirs = refit.apply(theirs, gram, Refit(iterations=8), [])
    errors = [relative_output_error(weight_OI, layer.weight_OI, gram.value()) for layer in (ours, theirs)]
    assert errors[0] < 0.97 * errors[1]


def test_weights_pruned_before_stay_zero():
    weight_OI, gram = case()
    first = wanda.apply(LayerWeight(weight_OI), gram, Wanda(sparsity=0.3), [])
    second = swaps.apply(first, gram, Swaps(sparsity=0.6), [])
    assert not bool((second.mask_OI & ~first.mask_OI).any())
    assert bool((second.mask_OI.sum(1) == round(0.4 * 160)).all())


def test_blocks_and_codes_are_refused():
    weight_OI, gram = case()
    with pytest.raises(RecipeError, match="not blocks"):
        swaps.apply(LayerWeight(weight_OI), gram, Swaps(sparsity=0.5, pattern="block 4x4"), [])
    coded = rtn.apply(LayerWeight(weight_OI), None, RTN(group_size=32), [])
    with pytest.raises(RecipeError, match="quantized"):
        swaps.apply(coded, gram, Swaps(), [])
