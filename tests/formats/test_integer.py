"""Integer codes: the bytes follow the drawn layout, and come back exactly."""

import pytest
import torch
from hypothesis import given, settings

from gossamer.errors import FormatError
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.packed import from_tensors
from gossamer.formats.quantized import Quantized
from tests.formats.cases import quantized, quantized_weights, random_mask

PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


@settings(max_examples=60, deadline=None)
@given(quantized_weights())
def test_codes_of_any_width_shape_and_group_come_back_exactly(codes: Quantized) -> None:
    packed = IntegerWeight.pack(codes)
    back = from_tensors(packed.meta(), packed.tensors())
    assert torch.equal(back.unpack(), codes.dequantize())
    assert bool(back.mask().all())
    again = packed.quantized()
    assert torch.equal(again.codes_OI, codes.codes_OI)
    assert torch.equal(again.scale_OG, codes.scale_OG)


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_byte_lies_where_the_layout_says(bits: int) -> None:
    codes = quantized(19, 70, bits)
    tensors = IntegerWeight.pack(codes).tensors()

    def code(row: int, column: int) -> int:
        return int(codes.codes_OI[row, column]) if row < 19 and column < 70 else 0

    shift = 0
    for width in PLANES[bits]:
        plane = tensors[f"codes{width}"]
        per_byte = 8 // width
        assert plane.shape == (2, 32 // per_byte, 64)
        for strip in range(2):
            for item in range(32 // per_byte):
                for lane in range(0, 64, 7):
                    byte = 0
                    for j in range(per_byte):
                        quad = per_byte * item + j
                        u = code(16 * strip + lane // 4, 4 * quad + lane % 4)
                        byte |= ((u >> shift) % (1 << width)) << (width * j)
                    assert int(plane[strip, item, lane]) == byte
        shift += width


def test_scales_lie_by_strip_group_and_row_in_float16() -> None:
    codes = quantized(19, 96, 4, 32, symmetric=False)
    tensors = IntegerWeight.pack(codes).tensors()
    for name, values in (("scale", codes.scale_OG), ("minimum", codes.minimum_OG)):
        assert tensors[name].dtype == torch.float16
        assert tensors[name].shape == (2, 3, 16)
        assert float(tensors[name][1, 2, 1]) == float(values[17, 2])
        assert not bool(tensors[name][1, :, 3:].any())


@pytest.mark.parametrize(("bits", "size"), [(4, 2 * 2 * 16 * 64 // 2 + 2 * 2 * 16 * 2), (5, 2560 + 128)])
def test_bytes_are_bits_over_eight_plus_scales(bits: int, size: int) -> None:
    packed = IntegerWeight.pack(quantized(32, 128, bits, 64))
    assert packed.num_bytes == IntegerWeight.expected_bytes(packed.meta())
    assert packed.num_bytes == 32 * 128 * bits // 8 + 32 * 2 * 2
    assert bits == 5 or packed.num_bytes == size


def test_a_masked_weight_is_zero_and_its_mask_comes_back() -> None:
    codes = quantized(20, 64, 4, 32)
    codes.codes_OI[codes.codes_OI == 8] = 9  # no kept zeros
    mask = random_mask(20, 64)
    packed = IntegerWeight.pack(codes, mask)
    assert torch.equal(packed.mask(), mask)
    assert torch.equal(packed.unpack(), codes.dequantize() * mask)


def test_a_mask_that_would_be_lost_is_refused() -> None:
    codes = quantized(20, 64, 4, 32)
    codes.codes_OI[3, 5] = 8
    with pytest.raises(FormatError, match="kept zero"):
        IntegerWeight.pack(codes, torch.ones(20, 64, dtype=torch.bool))
    with pytest.raises(FormatError, match="symmetric"):
        IntegerWeight.pack(quantized(20, 64, 4, 32, symmetric=False), random_mask(20, 64))


def test_codes_that_packing_would_change_are_refused() -> None:
    good = quantized(4, 64, 4, 32)
    wrong_scale = Quantized(good.codes_OI, good.scale_OG + 1e-6, None, 4, 32)
    with pytest.raises(FormatError, match="float16"):
        IntegerWeight.pack(wrong_scale)
    with pytest.raises(FormatError, match=r"codes: expected less than 2\*\*3"):
        IntegerWeight.pack(Quantized(torch.full((4, 64), 8, dtype=torch.uint8), good.scale_OG, None, 3, 32))
    with pytest.raises(FormatError, match="group_size"):
        IntegerWeight.pack(Quantized(good.codes_OI, good.scale_OG, None, 4, 16))
    with pytest.raises(FormatError, match="scale: shape"):
        IntegerWeight.pack(Quantized(good.codes_OI, good.scale_OG[:, :1], None, 4, 32))
