"""Choosing: the fewest bytes by arithmetic, and never at the price of the mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import FormatError
from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.choose import pack, predict_bytes
from gossamer.formats.packed import expected_bytes, from_tensors
from tests.formats.cases import (
    DTYPES,
    block_mask,
    masks,
    nm_mask,
    quantized,
    quantized_weights,
    random_mask,
    weight,
)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_codes_and_mask_survive_whatever_is_chosen(data: st.DataObject) -> None:
    codes = data.draw(quantized_weights())
    mask = data.draw(masks(*codes.codes_OI.shape))
    packed = pack(codes.dequantize() * mask, mask, codes)
    assert torch.equal(packed.mask(), mask)
    assert torch.equal(packed.unpack(), codes.dequantize() * mask)
    assert packed.num_bytes == expected_bytes(packed.meta())


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 40), st.integers(1, 100), st.sampled_from(DTYPES))
def test_floats_and_mask_survive_whatever_is_chosen(data, num_rows, num_columns, dtype) -> None:
    mask, dense = data.draw(masks(num_rows, num_columns)), weight(num_rows, num_columns)
    packed = pack(dense * mask, mask, None, dtype)
    assert torch.equal(packed.mask(), mask)
    assert torch.equal(packed.unpack(), (dense * mask).to(dtype).float())
    assert packed.num_bytes == expected_bytes(packed.meta())


@pytest.mark.parametrize(
    ("bits", "mask", "chosen"),
    [
        (4, None, "integer"),
        (4, random_mask(64, 128, 0.5), "bitmask"),  # 1/8 + 0.5/2 < 1/2
        (4, random_mask(64, 128, 0.95), "integer"),  # 1/8 + 0.95/2 > 1/2
        (4, nm_mask(64, 128, 4), "bitmask"),  # 1/8 + 1/8 + a little for the streams against 1/4 + nothing
        (8, nm_mask(64, 128, 12), "bitmask"),  # 1/8 + 3/4 < 9/8
        (8, random_mask(64, 128, 0.95), "integer"),
    ],
)
def test_the_smallest_format_of_codes_is_chosen(bits: int, mask: torch.Tensor | None, chosen: str) -> None:
    codes = quantized(64, 128, bits, 64)
    codes.codes_OI[codes.codes_OI == 1 << (bits - 1)] += 1  # no kept zeros
    packed = pack(codes.dequantize(), mask, codes)
    if chosen == "bitmask" and packed.format == "nm":
        assert packed.num_bytes < BitmaskWeight.pack(codes, mask).num_bytes
    else:
        assert packed.format == chosen


def test_four_of_sixteen_int4_weights_become_nm() -> None:
    codes = quantized(64, 256, 4, 64)
    packed = pack(codes.dequantize(), nm_mask(64, 256, 4), codes)
    assert packed.format == "nm"  # a bitmask of the same size pays for uneven streams and 64 bytes of padding


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_half_of_narrow_windows_becomes_nm_and_the_narrowest_wins_a_tie(bits: int) -> None:
    codes = quantized(64, 256, bits, 64)
    for keep, width in ((2, 4), (4, 8)):
        meta = pack(codes.dequantize(), nm_mask(64, 256, keep, width=width), codes).meta()
        assert (meta["format"], meta["keep"], meta["window"]) == ("nm", keep, width)
    assert pack(codes.dequantize(), nm_mask(64, 256, 8), codes).format == "bitmask"
    one_of_four = pack(codes.dequantize(), nm_mask(64, 256, 1, width=4), codes)
    assert (one_of_four.meta()["keep"], "window" in one_of_four.meta()) == (4, False)


def test_floats_keep_to_windows_of_16() -> None:
    assert pack(weight(64, 256), nm_mask(64, 256, 2, width=4), None).format == "bitmask"
    assert pack(weight(64, 256), nm_mask(64, 256, 1, width=4), None).meta()["keep"] == 4


@pytest.mark.parametrize(
    ("mask", "chosen"),
    [
        (None, "dense"),
        (torch.ones(64, 128, dtype=torch.bool), "dense"),
        (random_mask(64, 128, 0.5), "bitmask"),
        (random_mask(64, 128, 0.97), "dense"),
        (block_mask(64, 128, (16, 16)), "block"),
        (block_mask(64, 128, (64, 64), 0.5, seed=1), "block"),
    ],
)
def test_the_smallest_format_of_floats_is_chosen(mask: torch.Tensor | None, chosen: str) -> None:
    assert pack(weight(64, 128), mask, None).format == chosen


def test_an_almost_full_mask_with_kept_zeros_stays_a_bitmask() -> None:
    codes, mask = quantized(64, 128, 4, 64), random_mask(64, 128, 0.95)
    codes.codes_OI[mask.nonzero()[0][0], mask.nonzero()[0][1]] = 8
    assert pack(codes.dequantize(), mask, codes).format == "bitmask"
    dense = weight(64, 128)
    dense[mask.nonzero()[0][0], mask.nonzero()[0][1]] = 0
    assert pack(dense, mask, None).format == "bitmask"


def test_a_mask_for_another_matrix_is_refused() -> None:
    with pytest.raises(FormatError, match="mask"):
        pack(weight(4, 32), random_mask(4, 64), None)
    with pytest.raises(FormatError, match="mask"):
        pack(weight(4, 32), random_mask(4, 64), quantized(4, 32))


@pytest.mark.parametrize(
    "mask",
    [
        None,
        random_mask(40, 96, 0.4),
        random_mask(40, 96, 0.97),
        nm_mask(40, 96, 4),
        block_mask(40, 96, (8, 8)),
    ],
)
@pytest.mark.parametrize("with_codes", [True, False])
def test_packing_allocates_nothing_on_a_device_that_it_was_not_given(
    mask: torch.Tensor | None, with_codes: bool
) -> None:
    codes, dense = quantized(40, 96, 4, 32), weight(40, 96)
    codes.codes_OI[codes.codes_OI == 8] += 1  # no kept zeros, so that `integer` can hold a mask
    with torch.device(
        "meta"
    ):  # a tensor that is made without a device is now made there, and would spoil the result
        packed = pack(dense, mask, codes if with_codes else None)
        again = from_tensors(packed.meta(), packed.tensors())
    assert {tensor.device.type for tensor in again.tensors().values()} == {"cpu"}
    assert mask is None or torch.equal(again.mask(), mask)


@pytest.mark.parametrize(("shape", "kept"), [((64, 128), 0.5), ((48, 320), 0.25)])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_what_is_predicted_is_what_packing_takes(
    shape: tuple[int, int], kept: float, bits: int | None
) -> None:
    codes = None if bits is None else quantized(*shape, bits, 32)
    mask = nm_mask(*shape, int(4 * kept), width=4)
    packed = pack(weight(*shape), mask, codes)
    declared = None if codes is None else codes.declaration()
    window = (int(4 * kept), 4)
    predicted = predict_bytes(shape, torch.bfloat16, codes=declared, kept=kept, window=window)
    assert predicted == pytest.approx(packed.num_bytes, rel=0.03)


def test_factors_are_predicted_beside_and_in_place_of_the_weight() -> None:
    alone = predict_bytes((64, 128), torch.bfloat16, rank=4, factors_only=True)
    assert alone == 2 * 4 * (64 + 128)
    codes = {"bits": 4, "group_size": 64, "symmetric": True}
    beside = predict_bytes((64, 128), torch.bfloat16, codes=codes, rank=4)
    assert beside == alone + predict_bytes((64, 128), torch.bfloat16, codes=codes)
