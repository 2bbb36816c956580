"""Statistics against float64 numpy, in any split and any merge."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.calibration.statistics import AbsMax, Gram, InputNorm, Statistic, serves, to_collect
from gossamer.errors import CalibrationError

ALL = [InputNorm, Gram, AbsMax]


def expected(statistic, x_TI):
    x_TI = x_TI.double().numpy()
    if statistic is InputNorm:
        return np.sqrt((x_TI**2).mean(0))
    if statistic is Gram:
        return np.einsum("ti,tj->ij", x_TI, x_TI) / len(x_TI)
    return np.abs(x_TI).max(0)


@pytest.mark.parametrize("statistic", ALL)
@settings(max_examples=25, deadline=None)
@given(
    num_inputs=st.integers(1, 9),
    parts=st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(lambda parts: sum(parts) > 0),
    cut=st.integers(0, 6),
    seed=st.integers(0, 2**31),
)
def test_any_split_and_any_merge_equal_all_tokens_at_once(statistic, num_inputs, parts, cut, seed):
    x_TI = torch.randn(sum(parts), num_inputs, generator=torch.Generator().manual_seed(seed))
    first, second = statistic(num_inputs), statistic(num_inputs)
    for index, part in enumerate(x_TI.split(parts)):
        (first if index < cut else second).update(part)
    first.merge(second)
    assert first.num_tokens == sum(parts)
    np.testing.assert_allclose(first.value().numpy(), expected(statistic, x_TI), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("statistic", ALL)
def test_many_tokens_and_half_precision_match_float64(statistic):
    x_BTI = torch.randn(3, 3000, 17, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    whole = statistic(17)
    whole.update(x_BTI)
    assert isinstance(whole, Statistic)
    assert whole.num_tokens == 9000
    np.testing.assert_allclose(
        whole.value().numpy(), expected(statistic, x_BTI.reshape(-1, 17)), rtol=2e-5, atol=1e-5
    )


def test_a_gram_matrix_gives_the_norms():
    x_TI = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    gram, norm = Gram(8), InputNorm(8)
    gram.update(x_TI)
    norm.update(x_TI)
    torch.testing.assert_close(gram.norms(), norm.value())
    torch.testing.assert_close(gram.mean_square(), norm.mean_square())
    assert torch.equal(gram.value(), gram.value().T)


@pytest.mark.parametrize("statistic", ALL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite_are_named_and_change_nothing(statistic, bad):
    x_TI = torch.ones(10, 4)
    broken_TI = x_TI.clone()
    broken_TI[3, 1] = bad
    broken_TI[7] = bad
    seen = statistic(4)
    seen.update(x_TI)
    before = seen.value()
    with pytest.raises(CalibrationError, match=r"2 of 10 tokens \(the first is token 3\)"):
        seen.update(broken_TI)
    assert torch.equal(seen.value(), before)
    assert seen.num_tokens == 10


def test_huge_but_finite_inputs_are_not_called_broken():
    seen = AbsMax(2)
    seen.update(torch.full((4, 2), 3e38))
    assert seen.value().tolist() == [torch.tensor(3e38).item()] * 2


@pytest.mark.parametrize("statistic", ALL)
def test_no_token_is_an_error_that_says_so(statistic):
    seen = statistic(4)
    seen.update(torch.ones(0, 4))
    with pytest.raises(CalibrationError, match="no calibration token"):
        seen.value()


@pytest.mark.parametrize("statistic", ALL)
def test_what_a_statistic_keeps_is_not_a_view_of_the_inputs(statistic):
    x_TI = torch.ones(3, 2)
    seen = statistic(2)
    seen.update(x_TI)
    before = seen.value()
    x_TI.mul_(100)
    assert torch.equal(seen.value(), before)


def test_one_gram_serves_a_chain_of_wanda_and_gptq():
    assert to_collect([None, InputNorm, Gram]) == [Gram]
    assert to_collect([InputNorm, None, InputNorm]) == [InputNorm]
    assert to_collect([AbsMax, InputNorm, Gram, AbsMax]) == [AbsMax, Gram]
    assert to_collect([None]) == []
    assert serves(Gram, InputNorm)
    assert not serves(InputNorm, Gram)
    assert not serves(Gram, AbsMax)
