"""How a packed weight finds its product: native where there is a kernel, else the reference, said once."""

import logging

import pytest
import torch

from gossamer.errors import FormatError
from gossamer.formats import stored
from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.dense import DenseWeight
from gossamer.formats.packed import from_tensors
from tests.formats.cases import EXAMPLES, random_mask, weight


@pytest.mark.parametrize("name", EXAMPLES)
def test_without_native_kernels_the_reference_gives_the_product(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "native_available", lambda: False)
    packed = from_tensors(EXAMPLES[name].meta(), EXAMPLES[name].tensors())
    x = torch.randn(3, packed.shape[1], generator=torch.Generator().manual_seed(2))
    expected = x.double() @ packed.unpack().double().T
    assert torch.allclose(packed.matmul(x).double(), expected, rtol=1e-4, atol=1e-3)


def test_a_kind_without_a_kernel_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stored, "native_available", lambda: True)
    monkeypatch.setitem(stored.NATIVE, "integer", lambda meta, tensors: None)
    monkeypatch.setattr(stored, "_said", set())
    example = EXAMPLES["integer-4-symmetric"]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            from_tensors(example.meta(), example.tensors()).matmul(torch.zeros(1, 96))
    assert [record.message for record in caplog.records] == [
        "no native kernel for format=integer bits=4 group_size=32; using the slow reference in plain torch"
    ]


def test_what_native_kernels_refuse_is_a_format_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(meta: object, tensors: object) -> None:
        raise ValueError("mask: expected 3, got 4")

    monkeypatch.setattr(stored, "native_available", lambda: True)
    monkeypatch.setitem(stored.NATIVE, "integer", refuse)
    example = EXAMPLES["integer-4-symmetric"]
    with pytest.raises(FormatError, match="expected 3, got 4"):
        from_tensors(example.meta(), example.tensors()).matmul(torch.zeros(1, 96))


def test_dense_weights_are_widened_piece_by_piece() -> None:
    packed = DenseWeight.pack(weight(1100, 1000), torch.bfloat16)  # more than two pieces of 524 rows
    x = torch.randn(2, 1000)
    assert torch.allclose(packed.matmul(x), x @ packed.unpack().T, atol=1e-3)


def test_empty_and_full_masks_have_products_too() -> None:
    for density in (0.0, 1.0):
        packed = BitmaskWeight.pack_float(weight(17, 70), random_mask(17, 70, density), torch.bfloat16)
        x = torch.randn(3, 70)
        assert torch.allclose(packed.matmul(x), x @ packed.unpack().T, atol=1e-4)
