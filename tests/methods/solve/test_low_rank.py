"""The best factors: as good as singular values say that a product of their rank can be."""

import pytest
import torch
from pydantic import ValidationError

from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.linear_algebra import damped_factor
from gossamer.methods.solve.low_rank import LowRankTarget, best_factors
from tests.methods.cases import weight_and_gram


@pytest.mark.parametrize(("num_rows", "num_inputs"), [(48, 160), (160, 48), (64, 64), (5, 64)])
@pytest.mark.parametrize("rank", [1, 5, 24])
def test_no_product_of_this_rank_loses_less(num_rows: int, num_inputs: int, rank: int) -> None:
    error_OI, gram = weight_and_gram(num_rows, num_inputs)
    factor = damped_factor(gram.value(), 0.01, [])
    rank = min(rank, num_rows)
    factors = best_factors(error_OI, factor.damped_II.float(), rank)
    assert factors.rank == rank
    left_OI = (error_OI - factors.product()).double() @ factor.lower_II
    singular = torch.linalg.svdvals(error_OI.double() @ factor.lower_II)
    total = float(singular.square().sum())
    assert float(left_OI.square().sum()) <= 1.002 * float(singular[rank:].square().sum()) + 1e-5 * total


def test_the_rank_is_a_number_or_a_share_of_the_size() -> None:
    assert LowRankTarget(rank=7).rank_for(100, 60) == 7
    assert LowRankTarget(rank=70).rank_for(100, 60) == 60
    assert LowRankTarget(rank_share=0.5).rank_for(576, 576) == 144
    assert LowRankTarget().rank_for(1536, 576) == round(0.05 * 1536 * 576 / 2112)
    assert LowRankTarget(rank_share=1e-6).rank_for(64, 64) == 1
    with pytest.raises(ValidationError, match="not both"):
        LowRankTarget(rank=3, rank_share=0.1)


def test_a_layer_with_factors_fits_the_rest_to_what_they_leave() -> None:
    weight_OI, gram = weight_and_gram(24, 64)
    factors = best_factors(weight_OI, gram.value(), 3)
    layer = LayerWeight(weight_OI).with_factors(factors)
    torch.testing.assert_close(layer.target_OI, weight_OI - factors.product())
    torch.testing.assert_close(layer.whole_target_OI, weight_OI)
    torch.testing.assert_close(layer.whole_OI, weight_OI + factors.product())
    others = best_factors(weight_OI, gram.value(), 5)
    torch.testing.assert_close(layer.with_factors(others).whole_target_OI, weight_OI)
