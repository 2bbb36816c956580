"""Bitmask: the bytes follow the drawn layout, values and masks come back exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.errors import FormatError
from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.packed import from_tensors
from tests.formats.cases import DTYPES, masks, quantized, quantized_weights, random_mask, shapes, weight


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_codes_and_masks_come_back_exactly(data: st.DataObject) -> None:
    codes = data.draw(quantized_weights())
    mask = data.draw(masks(*codes.codes_OI.shape))
    packed = BitmaskWeight.pack(codes, mask)
    back = from_tensors(packed.meta(), packed.tensors())
    assert torch.equal(back.unpack(), codes.dequantize() * mask)
    assert torch.equal(back.mask(), mask)
    assert back.num_bytes == BitmaskWeight.expected_bytes(packed.meta())


@settings(max_examples=30, deadline=None)
@given(st.data(), shapes, st.sampled_from(DTYPES))
def test_floats_and_masks_come_back_exactly(
    data: st.DataObject, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    mask, dense = data.draw(masks(*shape)), weight(*shape)
    packed = BitmaskWeight.pack_float(dense, mask, dtype)
    back = from_tensors(packed.meta(), packed.tensors())
    assert torch.equal(back.unpack(), dense.to(dtype).float() * mask)
    assert torch.equal(back.mask(), mask)


def strip_streams(codes: Tensor, mask: Tensor, strip: int, bits: int) -> tuple[list[int], list[int]]:
    """The kept signed values of a strip, quad by quad in lane order: (even quads, odd quads)."""
    num_rows, num_columns = codes.shape
    streams: tuple[list[int], list[int]] = ([], [])
    for quad in range(-(-num_columns // 64) * 16):
        for lane in range(64):
            row, column = 16 * strip + lane // 4, 4 * quad + lane % 4
            if row < num_rows and column < num_columns and bool(mask[row, column]):
                streams[quad % 2].append(int(codes[row, column]) - (1 << (bits - 1)))
    return streams


@pytest.mark.parametrize("bits", [3, 4])
def test_int4_values_run_in_two_streams_of_nibbles(bits: int) -> None:
    codes, mask = quantized(35, 70, bits), random_mask(35, 70, 0.3)
    tensors = BitmaskWeight.pack(codes, mask).tensors()
    expected, offsets = [], [0]
    for strip in range(3):
        even, odd = strip_streams(codes.codes_OI, mask, strip, bits)
        length = max(len(even), len(odd))
        even += [0] * (length - len(even))
        odd += [0] * (length - len(odd))
        expected += [(low & 15) | (high & 15) << 4 for low, high in zip(even, odd, strict=True)]
        offsets.append(len(expected))
    assert tensors["offsets"].tolist() == offsets
    assert tensors["values"].dtype == torch.uint8
    assert tensors["values"].tolist() == expected + [0] * 64


def test_int8_values_follow_quad_by_quad() -> None:
    codes, mask = quantized(20, 70, 6), random_mask(20, 70, 0.3)
    tensors = BitmaskWeight.pack(codes, mask).tensors()
    expected = []
    for strip in range(2):
        for quad in range(32):
            for lane in range(64):
                row, column = 16 * strip + lane // 4, 4 * quad + lane % 4
                if row < 20 and column < 70 and bool(mask[row, column]):
                    expected.append(int(codes.codes_OI[row, column]) - 32)
    assert tensors["values"].tolist() == expected + [0] * 64


def test_each_word_of_the_mask_holds_the_lanes_of_a_quad() -> None:
    mask = random_mask(19, 70)
    words = BitmaskWeight.pack_float(weight(19, 70), mask, torch.float32).tensors()["mask"]
    for strip in range(2):
        for quad in range(32):
            word = int(words[strip, quad]) % (1 << 64)
            for lane in range(64):
                row, column = 16 * strip + lane // 4, 4 * quad + lane % 4
                kept = row < 19 and column < 70 and bool(mask[row, column])
                assert bool(word >> lane & 1) == kept


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_followed_by_64_bytes_of_zeros(dtype: torch.dtype) -> None:
    mask = random_mask(19, 70)
    values = BitmaskWeight.pack_float(weight(19, 70), mask, dtype).tensors()["values"]
    padding = values[int(mask.sum()) :]
    assert padding.numel() * padding.element_size() == 64
    assert not bool(padding.any())


def test_a_kept_weight_of_value_zero_stays_kept() -> None:
    codes, mask = quantized(16, 64, 4), random_mask(16, 64)
    codes.codes_OI[:] = 8  # value 0 everywhere
    packed = BitmaskWeight.pack(codes, mask)
    assert torch.equal(packed.mask(), mask)
    assert not bool(packed.unpack().any())


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FormatError, match="does not fit in torch"):
        BitmaskWeight.pack_float(weight(4, 4) * 1e6, random_mask(4, 4), torch.float16)
    with pytest.raises(FormatError, match="NaN"):
        BitmaskWeight.pack_float(weight(4, 4) / 0, random_mask(4, 4), torch.float32)
    with pytest.raises(FormatError, match="mask"):
        BitmaskWeight.pack_float(weight(4, 4), random_mask(4, 5), torch.float32)
