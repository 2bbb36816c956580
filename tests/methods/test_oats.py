"""OATS: the published turns, and exactly the zeros that were asked for."""

import numpy as np
import pytest
import torch

from gossamer.calibration.statistics import InputNorm
from gossamer.methods import oats, wanda
from gossamer.methods.oats import OATS
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.wanda import Wanda
from tests.methods import reference
from tests.methods.cases import weight_and_gram


def test_both_parts_are_as_good_as_those_of_the_published_algorithm():
    weight_OI, gram = weight_and_gram(40, 96)
    layer = oats.apply(LayerWeight(weight_OI), gram, OATS(sparsity=0.5, rank=6), [])
    norms = gram.norms().double().numpy()
    sparse, low_rank = reference.oats(weight_OI.double().numpy(), norms, 6, 48, 80)
    losses = [
        np.square((weight_OI.double().numpy() - whole) * norms).sum()
        for whole in (layer.whole_OI.double().numpy(), sparse + low_rank)
    ]
    assert losses[0] < 1.005 * losses[1]
    agreement = (layer.mask_OI.numpy() == (sparse != 0)).mean()
    assert agreement > 0.9


@pytest.mark.parametrize("pattern", ["unstructured", "row", "8:16", "2:4", "block 1x8"])
def test_the_sparse_part_keeps_exactly_what_the_pattern_says(pattern):
    weight_OI, gram = weight_and_gram(24, 160)
    layer = oats.apply(
        LayerWeight(weight_OI), gram, OATS(sparsity=0.5, pattern=pattern, rank=3, iterations=4), []
    )
    assert int(layer.mask_OI.sum()) == weight_OI.numel() // 2
    assert not layer.weight_OI[~layer.mask_OI].any()
    torch.testing.assert_close(layer.target_OI, weight_OI - layer.factors.product())


def test_it_prunes_only_within_a_mask_and_needs_no_more_than_norms():
    weight_OI, gram = weight_and_gram(24, 160)
    norms = InputNorm(160)
    norms.sum_I, norms.num_tokens = gram.mean_square().double(), 1
    first = wanda.apply(LayerWeight(weight_OI), norms, Wanda(sparsity=0.3), [])
    second = oats.apply(first, norms, OATS(sparsity=0.6, rank=3, iterations=4), [])
    assert not bool((second.mask_OI & ~first.mask_OI).any())
    assert int(second.mask_OI.sum()) == 64 * 24


def test_dead_inputs_do_no_harm():
    weight_OI, gram = weight_and_gram(24, 64)
    gram.sum_II[3] = gram.sum_II[:, 3] = 0.0
    notes = []
    layer = oats.apply(LayerWeight(weight_OI), gram, OATS(rank=3, iterations=4), notes)
    assert bool(layer.whole_OI.isfinite().all()) and "1 of 64 inputs" in notes[0]
