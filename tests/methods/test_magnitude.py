import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gossamer.methods import magnitude
from gossamer.methods.magnitude import GlobalThreshold, Magnitude
from gossamer.methods.solve.layer_weight import LayerWeight


def weights(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def read_twice(layers, sparsity):
    threshold = GlobalThreshold(sparsity)
    for weight in layers:
        threshold.update(weight)
    threshold.refine()
    for weight in layers:
        threshold.update(weight)
    return threshold


def test_the_smallest_magnitudes_of_the_layer_are_pruned():
    weight_OI = weights(7, 20)
    layer = magnitude.apply(LayerWeight(weight_OI), None, Magnitude(sparsity=0.3), [])
    cut = np.sort(weight_OI.abs().numpy().ravel())[42]
    assert torch.equal(layer.mask_OI, weight_OI.abs() >= float(cut))
    assert torch.equal(layer.weight_OI, torch.where(layer.mask_OI, weight_OI, 0.0))


def test_sparsity_zero_changes_nothing():
    weight_OI = weights(3, 5)
    layer = magnitude.apply(LayerWeight(weight_OI), None, Magnitude(sparsity=0.0), [])
    assert torch.equal(layer.weight_OI, weight_OI)


def test_a_second_step_reaches_the_total_sparsity_and_keeps_zeros_zero():
    first = magnitude.apply(LayerWeight(weights(8, 32)), None, Magnitude(pattern="4:8"), [])
    second = magnitude.apply(first, None, Magnitude(sparsity=0.75), [])
    assert second.mask_OI.sum() == 64
    assert not (second.mask_OI & ~first.mask_OI).any()
    assert (second.weight_OI[~second.mask_OI] == 0).all()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    sparsity=st.floats(0.0, 0.99),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e20]),
    seed=st.integers(0, 999),
)
def test_the_global_threshold_is_the_exact_kth_smallest(sizes, sparsity, scale, seed):
    layers = [weights(size, seed=seed + i) * scale for i, size in enumerate(sizes)]
    everything = np.sort(torch.cat(layers).abs().numpy())
    count = round(sparsity * len(everything))
    expected = float(everything[count - 1]) if count else -1.0
    assert read_twice(layers, sparsity).value() == expected


def test_global_scope_prunes_the_layer_of_small_weights_more():
    large, small = weights(16, 32), weights(16, 32, seed=1) * 0.1
    threshold = read_twice([large, small], 0.5)
    settings = Magnitude(sparsity=0.5, scope="global")
    kept = [
        int(magnitude.apply(LayerWeight(w), threshold, settings, []).mask_OI.sum()) for w in (large, small)
    ]
    assert sum(kept) == 512
    assert kept[0] > kept[1]


def test_a_layer_that_the_global_threshold_empties_is_reported():
    notes = []
    threshold = read_twice([torch.ones(8, 8), torch.full((8, 8), 0.01)], 0.5)
    magnitude.apply(LayerWeight(torch.full((8, 8), 0.01)), threshold, Magnitude(scope="global"), notes)
    assert "every weight" in notes[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"sparsity": 1.0},
        {"sparsity": 1.5},
        {"sparsity": -0.1},
        {"sparsity": float("nan")},
        {"sparsity": 0.6, "pattern": "2:4"},
        {"pattern": "4:2"},
        {"pattern": "nonsense"},
        {"scope": "global", "pattern": "2:4"},
        {"sparsty": 0.5},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ValidationError):
        Magnitude(**settings)


def test_settings_round_trip_as_plain_values():
    settings = Magnitude(pattern="4:16")
    assert settings.share == 0.75
    assert Magnitude(**settings.model_dump(mode="json")) == settings
    assert Magnitude(sparsity=0.75, pattern="4:16").share == 0.75
    assert Magnitude().share == 0.5
