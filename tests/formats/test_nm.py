"""N:16: the bytes follow the drawn layout, values and masks come back exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import FormatError
from gossamer.formats.nm import NmWeight, fitting_patterns
from gossamer.formats.packed import from_tensors
from tests.formats.cases import nm_mask, quantized, quantized_weights, weight


@settings(max_examples=60, deadline=None)
@given(quantized_weights(symmetric=True), st.sampled_from((4, 8, 12)), st.integers(1, 12), st.integers(0, 99))
def test_codes_and_masks_come_back_exactly(codes, keep: int, kept: int, seed: int) -> None:
    mask = nm_mask(
        *codes.codes_OI.shape, min(kept, keep), seed
    )  # possibly fewer than the format has room for
    packed = NmWeight.pack(codes, mask, (keep, 16))
    back = from_tensors(packed.meta(), packed.tensors())
    assert torch.equal(back.unpack(), codes.dequantize() * mask)
    assert torch.equal(back.mask(), mask)
    assert back.num_bytes == NmWeight.expected_bytes(packed.meta())


@settings(max_examples=60, deadline=None)
@given(quantized_weights(symmetric=True), st.sampled_from(((2, 4), (4, 8))), st.integers(0, 99))
def test_half_of_narrow_windows_comes_back_exactly(codes, pattern: tuple[int, int], seed: int) -> None:
    mask = nm_mask(*codes.codes_OI.shape, pattern[0], seed, width=pattern[1])
    if pattern == (4, 8):  # which may keep fewer, and nothing
        mask &= torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = NmWeight.pack(codes, mask, pattern)
    back = from_tensors(packed.meta(), packed.tensors())
    assert torch.equal(back.unpack(), codes.dequantize() * mask)
    assert torch.equal(back.mask(), mask)
    assert back.num_zeros() == int((back.unpack() == 0).sum())
    assert back.num_bytes == NmWeight.expected_bytes(packed.meta())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("keep", [4, 8, 12])
def test_floats_and_masks_come_back_exactly(keep: int, dtype: torch.dtype) -> None:
    dense, mask = weight(21, 90), nm_mask(21, 90, keep)
    packed = NmWeight.pack_float(dense, mask, dtype)
    assert packed.meta()["keep"] == keep
    back = from_tensors(packed.meta(), packed.tensors())
    assert torch.equal(back.unpack(), dense.to(dtype).float() * mask)
    assert torch.equal(back.mask(), mask)


@pytest.mark.parametrize("bits", [4, 7])
def test_every_slot_lies_where_the_layout_says(bits: int) -> None:
    codes, mask = quantized(18, 72, bits), nm_mask(18, 72, 8)
    tensors = NmWeight.pack(codes, mask).tensors()
    for strip in range(2):
        for window in range(8):
            for plane in range(2):
                for lane in range(64):
                    row, slot = 16 * strip + lane // 4, 4 * plane + lane % 4
                    columns = [
                        column
                        for column in range(16 * window, min(16 * window + 16, 72))
                        if row < 18 and bool(mask[row, column])
                    ]
                    index = columns[slot] % 16 if slot < len(columns) else 0
                    value = 0
                    if slot < len(columns):
                        value = int(codes.codes_OI[row, columns[slot]]) - (1 << (bits - 1))
                    if bits == 4:
                        assert int(tensors["codes"][strip, window, plane, lane]) == (value & 15) << 4 | index
                    else:
                        assert int(tensors["values"][strip, window, plane, lane]) == value
                        pair = int(tensors["index"][strip, window, plane, lane // 2])
                        assert (pair >> 4 if lane % 2 else pair & 15) == index


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("keep", "width"), [(2, 4), (4, 8)])
def test_every_slot_of_narrow_windows_lies_where_the_layout_says(keep: int, width: int, bits: int) -> None:
    codes, mask = quantized(18, 72, bits), nm_mask(18, 72, keep, width=width)
    tensors = NmWeight.pack(codes, mask, (keep, width)).tensors()
    for row in range(18):
        strip, r = row // 16, row % 16
        for start in range(0, 72, width):
            run, first = start // 16, start % 16 // width * keep
            kept = [column for column in range(width) if bool(mask[row, start + column])]
            if width == 8:
                assert int(tensors["mask"][strip, run, first // 4, r]) == sum(1 << column for column in kept)
            for slot, column in enumerate(kept, start=first):
                plane, lane = slot // 4, 4 * r + slot % 4
                value = int(codes.codes_OI[row, start + column]) - (1 << (bits - 1))
                if bits == 4:
                    assert int(tensors["codes"][strip, run, lane]) >> (4 * plane) & 15 == value & 15
                else:
                    assert int(tensors["values"][strip, run, plane, lane]) == value
                if width == 4:
                    field = int(tensors["index"][strip, run // 2, lane]) >> (4 * (run % 2) + 2 * plane) & 3
                    assert field == column


def test_bytes_are_n_sixteenths() -> None:
    packed = NmWeight.pack(quantized(32, 128, 4, 128), nm_mask(32, 128, 4))
    assert packed.num_bytes == 32 * 128 * 4 // 16 + 32 * 2
    packed = NmWeight.pack(quantized(32, 128, 8, 128), nm_mask(32, 128, 8))
    assert packed.num_bytes == 32 * 128 * 8 // 16 * 3 // 2 + 32 * 2
    for keep, width in ((2, 4), (4, 8)):
        mask = nm_mask(32, 128, keep, width=width)
        assert NmWeight.pack(quantized(32, 128, 4, 128), mask).num_bytes == 32 * 128 * 3 // 8 + 32 * 2
        assert NmWeight.pack(quantized(32, 128, 8, 128), mask).num_bytes == 32 * 128 * 5 // 8 + 32 * 2


def test_a_kept_zero_in_the_first_column_stays_kept() -> None:
    codes, mask = quantized(1, 16, 4), torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 0] = True
    codes.codes_OI[:] = 8
    assert torch.equal(NmWeight.pack(codes, mask).mask(), mask)


def test_masks_that_do_not_fit_are_refused() -> None:
    codes = quantized(2, 32, 4)
    crowded = torch.ones(2, 32, dtype=torch.bool)
    assert fitting_patterns(crowded) == ()
    with pytest.raises(FormatError, match="kept in every window"):
        NmWeight.pack(codes, crowded)
    empty_window = nm_mask(2, 32, 4)
    empty_window[1, 16:] = False
    assert fitting_patterns(empty_window) == ((4, 8),)  # which alone holds empty windows
    with pytest.raises(FormatError, match="kept in every window"):
        NmWeight.pack(codes, empty_window, (4, 16))
    with pytest.raises(FormatError, match="1 to 4 kept"):
        NmWeight.pack(codes, nm_mask(2, 32, 8), (4, 16))
    with pytest.raises(FormatError, match="1 to 2 kept in every window of 4"):
        NmWeight.pack(codes, nm_mask(2, 32, 8), (2, 4))
    with pytest.raises(FormatError, match="float16 or bfloat16"):
        NmWeight.pack_float(weight(2, 32), nm_mask(2, 32, 4), torch.float32)
    with pytest.raises(FormatError, match="symmetric"):
        NmWeight.pack(quantized(2, 32, 4, symmetric=False), nm_mask(2, 32, 4))
