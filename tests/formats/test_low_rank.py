"""Low rank: parts come back exactly, products are those of the sum, and parts that do not fit are refused."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import FormatError
from gossamer.formats.choose import pack
from gossamer.formats.factors import Factors
from gossamer.formats.low_rank import LowRankWeight, residual_mask
from gossamer.formats.packed import expected_bytes, from_tensors
from gossamer.kernels import table
from tests.formats.cases import EXAMPLES, factors, masks, quantized_weights, random_mask, weight

LOW_RANK = [name for name in EXAMPLES if name.startswith("low_rank")]


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 20))
def test_factors_codes_and_mask_come_back_exactly(data: st.DataObject, rank: int) -> None:
    codes = data.draw(quantized_weights())
    mask = data.draw(masks(*codes.codes_OI.shape))
    given_factors = factors(*codes.codes_OI.shape, rank)
    packed = pack(codes.dequantize() * mask, mask, codes, factors=given_factors)
    assert isinstance(packed, LowRankWeight) and packed.residual is not None
    assert torch.equal(residual_mask(packed), mask)
    assert torch.equal(packed.residual.unpack(), codes.dequantize() * mask)
    back = packed.factors()
    assert torch.equal(back.left_OR, given_factors.left_OR) and torch.equal(
        back.right_RI, given_factors.right_RI
    )
    assert torch.allclose(packed.unpack(), codes.dequantize() * mask + given_factors.product(), atol=1e-4)
    assert packed.num_bytes == expected_bytes(packed.meta())


def test_factors_alone_take_no_bytes_for_a_residual() -> None:
    nothing = torch.zeros(40, 70)
    packed = pack(nothing, nothing.bool(), None, factors=factors(40, 70, 4))
    assert isinstance(packed, LowRankWeight) and packed.residual is None
    assert packed.num_bytes == 2 * 4 * (40 + 70)
    assert not residual_mask(packed).any() and bool(packed.mask().all())
    assert packed.meta() == LowRankWeight.declare_factors((40, 70), 4, None)


def test_rounded_factors_have_equal_norms_and_nearly_their_product() -> None:
    left, right = weight(40, 4) * 1e3, weight(4, 70, 1) * 1e-3
    left[:, 2] = 0
    made = Factors.rounded(left, right)
    sizes = made.left_OR.norm(dim=0) / made.right_RI.norm(dim=1)
    assert torch.allclose(sizes[[0, 1, 3]], torch.ones(3), rtol=1e-3)
    assert torch.allclose(made.product(), left @ right, rtol=1e-2, atol=5e-3)
    assert torch.equal(made.left_OR, made.left_OR.half().float())


def test_factors_too_large_for_float16_are_refused() -> None:
    with pytest.raises(FormatError, match="float16"):
        Factors.rounded(torch.full((2, 1), 1e6), torch.full((1, 2), 1e6))


def test_factors_too_small_for_float16_are_refused_not_lost() -> None:
    with pytest.raises(FormatError, match=r"left factor.*float16"):
        Factors.rounded(torch.full((2, 1), 1e-9), torch.full((1, 2), 1e-9))
    assert not Factors.rounded(torch.zeros(2, 1), torch.zeros(1, 2)).product().any()


@pytest.mark.parametrize("name", LOW_RANK)
def test_native_products_are_those_of_the_reference(name: str) -> None:
    packed = EXAMPLES[name]
    native = table.matrix(packed.meta(), packed.tensors())
    if native is None:
        assert name in ("low_rank-bitmask-4-asymmetric", "low_rank-block-float32")
        return
    for num_tokens in (1, 2, 30):
        x = weight(num_tokens, packed.shape[1], seed=num_tokens)
        expected = table.low_rank_matmul(packed.meta(), packed.tensors(), x)
        assert torch.allclose(native.matmul(x), expected, rtol=1e-4, atol=1e-3)
    assert torch.allclose(packed.matmul(x), expected, rtol=1e-4, atol=1e-3)


def changed_part(part: str, **changes: Any) -> dict[str, Any]:
    meta = EXAMPLES["low_rank-bitmask-4-symmetric"].meta()
    return {**meta, part: {**meta[part], **changes}}


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (changed_part("left", shape=[19, 4]), "shape of left"),
        (changed_part("right", shape=[3, 95]), "shape of right"),
        (changed_part("residual", shape=[18, 96]), "shape of residual"),
        (changed_part("left", format="bitmask"), "one of dense, integer"),
        (changed_part("residual", format="low_rank"), "one of dense, integer, bitmask, nm, block"),
        (changed_part("residual", format="csr"), "one of dense, integer, bitmask, nm, block"),
        (changed_part("residual", num_values=2**40), "num_values"),
        ({**EXAMPLES["low_rank-bitmask-4-symmetric"].meta(), "rank": 4}, "shape of left"),
        ({**EXAMPLES["low_rank-bitmask-4-symmetric"].meta(), "residual": None}, "tensors: expected"),
        ({**EXAMPLES["low_rank-bitmask-4-symmetric"].meta(), "left": None}, "declaration: left"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(meta: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        from_tensors(meta, EXAMPLES["low_rank-bitmask-4-symmetric"].tensors())


def test_parts_of_other_shapes_are_not_packed_together() -> None:
    with pytest.raises(FormatError, match="shape of residual"):
        LowRankWeight.pack(factors(20, 96, 3), EXAMPLES["integer-4-symmetric"])


def test_the_whole_goes_to_scipy_not_only_the_residual() -> None:
    dense, mask = weight(12, 20), random_mask(12, 20)
    packed = pack(dense * mask, mask, None, torch.float32, factors(12, 20, 2))
    assert torch.equal(torch.from_numpy(packed.to_scipy().toarray()), packed.unpack())
