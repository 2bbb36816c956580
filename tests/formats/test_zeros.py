"""Zeros are counted from what is stored, and are those of the unpacked weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.block import BlockWeight
from gossamer.formats.dense import DenseWeight
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.nm import NmWeight
from gossamer.formats.packed import from_tensors
from gossamer.formats.quantized import Quantized
from gossamer.formats.sparse import CooWeight, CscWeight, CsrWeight
from gossamer.formats.weight import PackedWeight
from tests.formats.cases import EXAMPLES

GROUP = 32


def unpacked_zeros(packed: PackedWeight) -> int:
    return int((packed.unpack() == 0).sum())


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_format_counts_the_zeros_of_the_unpacked_weight(name: str) -> None:
    assert EXAMPLES[name].num_zeros() == unpacked_zeros(EXAMPLES[name])


def quantized(bits: int, symmetric: bool, seed: int, shape: tuple[int, int]) -> Quantized:
    """Random codes; minima are multiples of the scales or not, and some scales and minima are 0."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = shape
    codes_OI = torch.randint(0, 2**bits, shape, generator=generator).to(torch.uint8)
    scale_OG = torch.rand(rows, columns // GROUP, generator=generator).half().float()
    scale_OG[torch.rand(scale_OG.shape, generator=generator) < 0.2 * (seed % 2)] = 0
    steps_OG = torch.randint(0, 2**bits + 2, scale_OG.shape, generator=generator)
    minimum_OG = (-scale_OG * steps_OG).half().float()
    return Quantized(codes_OI, scale_OG, None if symmetric else minimum_OG, bits, GROUP)


@settings(deadline=None, max_examples=60)
@given(bits=st.integers(2, 8), symmetric=st.booleans(), seed=st.integers(0, 999), rows=st.integers(1, 40))
def test_integers_with_and_without_a_mask(bits: int, symmetric: bool, seed: int, rows: int) -> None:
    codes = quantized(bits, symmetric, seed, (rows, 96))
    mask_OI = torch.rand(rows, 96, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask_OI[:, ::16] = True
    packs: list[PackedWeight] = [IntegerWeight.pack(codes), BitmaskWeight.pack(codes, mask_OI)]
    if symmetric:
        four_of_sixteen = torch.arange(96).expand(rows, 96) % 4 == 0
        packs.append(NmWeight.pack(codes, four_of_sixteen))
    for packed in packs:
        assert packed.num_zeros() == unpacked_zeros(packed)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), rows=st.integers(1, 40), columns=st.integers(1, 70))
def test_floats_with_and_without_stored_zeros(seed: int, rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight_OI = torch.randint(-2, 3, (rows, columns), generator=generator).float()
    weight_OI[weight_OI == 1] = -0.0
    mask_OI = torch.rand(weight_OI.shape, generator=generator) < 0.7
    for packed in (
        DenseWeight.pack(weight_OI, torch.bfloat16),
        BitmaskWeight.pack_float(weight_OI, mask_OI, torch.float16),
        BlockWeight.pack(weight_OI, (4, 8), torch.float32),
        *(kind.pack(weight_OI, torch.float32, mask_OI) for kind in (CooWeight, CsrWeight, CscWeight)),
    ):
        assert packed.num_zeros() == unpacked_zeros(packed)


def test_a_nibble_that_belongs_to_no_weight_is_not_counted() -> None:
    codes = quantized(4, True, 2, (16, 96))
    mask_OI = torch.zeros(16, 96, dtype=torch.bool)
    mask_OI[:, :4] = True  # even quads only: the stream of the odd ones is empty
    packed = BitmaskWeight.pack(codes, mask_OI)
    tensors: dict[str, Tensor] = {name: tensor.clone() for name, tensor in packed.tensors().items()}
    tensors["values"][: packed.meta()["num_values"]] |= 0x70
    other = from_tensors(packed.meta(), tensors)
    assert other.num_zeros() == unpacked_zeros(other) == packed.num_zeros()
