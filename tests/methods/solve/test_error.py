import numpy as np
import pytest
import torch

from gossamer.errors import RunError
from gossamer.methods.rtn import RTN
from gossamer.methods.rtn import apply as rtn
from gossamer.methods.solve.error import check_packed, relative_output_error
from gossamer.methods.solve.layer_weight import LayerWeight
from tests.methods.reference import correlated_gram


def test_the_error_is_that_of_the_outputs():
    gram, x = correlated_gram(20)
    rng = np.random.default_rng(1)
    dense, compressed = rng.normal(size=(2, 6, 20))
    expected = np.sum((x @ (dense - compressed).T) ** 2) / np.sum((x @ dense.T) ** 2)
    tensors = [torch.from_numpy(a).float() for a in (dense, compressed, gram)]
    assert relative_output_error(*tensors) == pytest.approx(expected, rel=1e-4)


def test_nothing_changed_is_zero_and_everything_lost_is_one():
    gram = torch.from_numpy(correlated_gram(20)[0]).float()
    weight = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    assert relative_output_error(weight, weight, gram) == 0.0
    assert relative_output_error(weight, torch.zeros(4, 20), gram) == pytest.approx(1.0)
    assert relative_output_error(torch.zeros(4, 20), torch.zeros(4, 20), gram) == 0.0
    assert relative_output_error(torch.zeros(4, 20), weight, gram) == float("inf")


def rounded(bits: int) -> LayerWeight:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)) * 0.05
    return rtn(LayerWeight(weight), None, RTN(bits=bits), [])


@pytest.mark.parametrize("bits", range(2, 9))
def test_what_was_packed_as_it_was_meant_passes(bits: int) -> None:
    layer = rounded(bits)
    check_packed("a.b", layer, layer.weight_OI)
    plain = LayerWeight(layer.target_OI)
    check_packed("a.b", plain, plain.weight_OI.bfloat16().float())
    check_packed("a.b", LayerWeight(torch.zeros(4, 4)), torch.zeros(4, 4))


@pytest.mark.parametrize("spoil", [torch.zeros_like, torch.neg, lambda w: w + 1, lambda w: w * torch.nan])
def test_other_weights_than_those_meant_are_an_error_with_the_name(spoil) -> None:
    for layer in (
        rounded(8),
        rounded(8).pruned(torch.ones(16, 64).bool()),
        LayerWeight(rounded(8).target_OI),
    ):
        with pytest.raises(RunError, match=r"a\.b: the packed weights have lost"):
            check_packed("a.b", layer, spoil(layer.weight_OI))


@pytest.mark.parametrize("bits", range(4, 9))
@pytest.mark.parametrize("spoil", [torch.zeros_like, lambda w: w.sign() * w.abs().mean(), lambda w: 2 * w])
def test_codes_that_are_far_from_the_weight_are_an_error_with_what_the_bits_allow(bits: int, spoil) -> None:
    if bits == 4 and spoil is not torch.zeros_like:
        return
    layer = rounded(bits)
    wrong = layer.with_weight(spoil(layer.weight_OI))
    with pytest.raises(RunError, match=f"a\\.b.*{bits} bits allow about"):
        check_packed("a.b", wrong, wrong.weight_OI)
