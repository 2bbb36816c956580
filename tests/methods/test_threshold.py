import pytest
import torch
from pydantic import ValidationError

from gossamer.errors import CheckpointError, RecipeError
from gossamer.methods import rtn, threshold
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.threshold import Threshold

WEIGHT_OI = torch.tensor([[0.5, -0.1, 0.2], [-0.2, 0.0, -0.19]])


def test_weights_below_the_threshold_are_pruned_and_no_others():
    notes = []
    layer = threshold.apply(LayerWeight(WEIGHT_OI), None, Threshold(threshold=0.2), notes)
    assert layer.mask_OI.tolist() == [[True, False, True], [True, False, False]]
    assert torch.equal(layer.weight_OI, WEIGHT_OI * layer.mask_OI)
    assert notes == []


def test_pruned_weights_stay_pruned():
    mask_OI = torch.tensor([[False, True, True], [True, True, True]])
    layer = LayerWeight(WEIGHT_OI * mask_OI, mask_OI)
    assert threshold.apply(layer, None, Threshold(threshold=0.01), []).mask_OI.sum() == 4


def test_a_layer_left_without_weights_is_reported():
    notes = []
    threshold.apply(LayerWeight(WEIGHT_OI), None, Threshold(threshold=9.0), notes)
    assert "every weight" in notes[0]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_threshold_must_be_positive_and_finite(value):
    with pytest.raises(ValidationError):
        Threshold(threshold=value)


def test_pruning_after_quantizing_is_refused():
    layer = rtn.apply(LayerWeight(torch.randn(4, 32)), None, rtn.RTN(group_size=32), [])
    with pytest.raises(RecipeError, match="quantize last"):
        threshold.apply(layer, None, Threshold(threshold=0.1), [])


def test_a_weight_with_nan_is_refused():
    with pytest.raises(CheckpointError, match="1 NaN or infinite values of 2"):
        threshold.apply(LayerWeight(torch.tensor([[1.0, float("nan")]])), None, Threshold(threshold=0.1), [])
