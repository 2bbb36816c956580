"""O output features, I input features, T tokens."""

import pytest
import torch

from gossamer.errors import UsageError
from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.factors import Factors
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.packed import from_tensors
from gossamer.formats.quantized import Quantized
from gossamer.kernels import table
from gossamer.kernels.cpu import CpuMatrix
from gossamer.kernels.expand import expanded, expands

SHAPES = [(1, 32), (16, 64), (33, 96), (40, 200)]


def half(shape: tuple[int, int], bits: int = 4, group_size: int | None = None) -> BitmaskWeight:
    generator = torch.Generator().manual_seed(0)
    codes_OI = torch.randint(0, 1 << bits, shape, dtype=torch.uint8, generator=generator)
    groups = shape[1] // (group_size or shape[1])
    scale_OG = torch.rand((shape[0], groups), generator=generator).half().float() + 0.01
    quantized = Quantized(codes_OI, scale_OG.half().float(), None, bits, group_size or shape[1])
    return BitmaskWeight.pack(quantized, torch.rand(shape, generator=generator) < 0.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_an_expanded_bitmask_is_a_dense_matrix_of_the_same_values(shape: tuple[int, int], bits: int) -> None:
    packed = half(shape, bits)
    meta, tensors = expanded(packed.meta(), packed.tensors())
    dense = from_tensors(meta, tensors)
    assert isinstance(dense, IntegerWeight)
    assert torch.equal(dense.unpack(), packed.unpack())


def test_groups_keep_their_scales() -> None:
    packed = half((40, 128), group_size=32)
    assert torch.equal(from_tensors(*expanded(packed.meta(), packed.tensors())).unpack(), packed.unpack())


@pytest.mark.parametrize("activations", ["float", "int8"])
def test_products_of_both_are_near_each_other_and_with_int8_the_same_bits(activations: str) -> None:
    packed = half((40, 256), group_size=32)
    x_TI = torch.randn(5, 256, generator=torch.Generator().manual_seed(1))
    made = [
        table.matrix(packed.meta(), packed.tensors()),
        table.matrix(*expanded(packed.meta(), packed.tensors())),
    ]
    results = [each.matmul(x_TI, activations) for each in made if isinstance(each, CpuMatrix)]
    assert len(results) == 2
    if activations == "int8":
        assert torch.equal(*results)
    torch.testing.assert_close(*results)


def test_the_residual_of_a_low_rank_matrix_is_expanded_too() -> None:
    residual = half((40, 64))
    left_OR, right_RI = torch.randn(40, 4).half().float(), torch.randn(4, 64).half().float()
    packed = LowRankWeight.pack(Factors(left_OR, right_RI), residual)
    meta, tensors = expanded(packed.meta(), packed.tensors())
    assert meta["residual"]["format"] == "integer"
    assert torch.equal(from_tensors(meta, tensors).unpack(), packed.unpack())


def test_other_matrices_stay_as_they_are() -> None:
    packed = half((16, 64), bits=8)
    meta, tensors = expanded(packed.meta(), packed.tensors())
    assert meta == packed.meta() and tensors.keys() == packed.tensors().keys()


def test_the_environment_decides_and_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOSSAMER_EXPAND", "1")
    assert expands()
    monkeypatch.setenv("GOSSAMER_EXPAND", "0")
    assert not expands()
    monkeypatch.setenv("GOSSAMER_EXPAND", "yes")
    with pytest.raises(UsageError, match="GOSSAMER_EXPAND: expected 0 or 1, got 'yes'"):
        expands()


@pytest.mark.parametrize(
    ("level", "wanted"), [("avx2", True), ("neon", True), ("avx512", False), ("none", False)]
)
def test_without_a_choice_the_instruction_set_decides(
    level: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOSSAMER_EXPAND", raising=False)
    monkeypatch.setattr("gossamer.kernels.expand.isa", lambda: level)
    assert expands() is wanted
