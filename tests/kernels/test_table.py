"""The table of kernels: what serves which format where, and the reference where nothing else does, said once."""

import logging

import pytest
import torch

from gossamer.errors import FormatError
from gossamer.formats.packed import FORMATS, empty_tensors, from_tensors
from gossamer.kernels import table
from gossamer.kernels.dispatch import native_available
from tests.formats.cases import EXAMPLES


@pytest.fixture
def nothing_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(table, "_said", set())
    caplog.set_level(logging.WARNING)
    return caplog


@pytest.mark.parametrize("operation", ["matmul", "unpack"])
def test_every_format_has_a_reference(operation: str) -> None:
    for name in FORMATS:
        assert getattr(table.KERNELS[name, "reference"], operation) is not None


def test_every_row_is_of_a_format_and_a_device_that_exist_and_serves_something() -> None:
    for (name, device), kernels in table.KERNELS.items():
        assert name in FORMATS
        assert device in ("reference", "cpu", "cuda")
        assert kernels != table.Kernels()


@pytest.mark.parametrize("name", EXAMPLES)
def test_without_native_kernels_the_reference_gives_the_product(
    name: str, monkeypatch: pytest.MonkeyPatch, nothing_said: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(table, "native_available", lambda: False)
    packed = from_tensors(EXAMPLES[name].meta(), EXAMPLES[name].tensors())
    x = torch.randn(3, packed.shape[1], generator=torch.Generator().manual_seed(2))
    expected = x.double() @ packed.unpack().double().T
    assert torch.allclose(packed.matmul(x).double(), expected, rtol=1e-4, atol=1e-3)
    assert not nothing_said.records  # dispatch.py says it for all formats


def test_a_kind_without_a_kernel_is_said_once(
    monkeypatch: pytest.MonkeyPatch, nothing_said: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(table, "native_available", lambda: True)
    monkeypatch.setitem(table.KERNELS, ("integer", "cpu"), table.Kernels(matrix=lambda meta, tensors: None))
    example = EXAMPLES["integer-4-symmetric"]
    for _ in range(2):
        from_tensors(example.meta(), example.tensors()).matmul(torch.zeros(1, 96))
    assert [record.message for record in nothing_said.records] == [
        "no kernel on cpu for format=integer bits=4 group_size=32; the reference in plain torch takes over"
    ]


@pytest.mark.parametrize("name", ["integer-4-symmetric", "bitmask-4-symmetric", "nm-4-8", "low_rank-nm-4-8"])
def test_tensors_on_another_device_go_to_the_reference_and_it_is_said_once(
    name: str, nothing_said: pytest.LogCaptureFixture
) -> None:
    meta = EXAMPLES[name].meta()
    tensors = empty_tensors(meta, "meta")
    assert table.matrix(meta, tensors) is None
    for _ in range(2):
        table.product(meta, tensors)
    assert [record.message for record in nothing_said.records] == [
        f"no kernel on meta for {table.describe(meta)}; the reference in plain torch takes over"
    ]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith(("integer", "dense"))])
def test_reference_products_and_lookups_stay_on_the_device_of_the_tensors(name: str) -> None:
    meta = EXAMPLES[name].meta()
    tensors = empty_tensors(meta, "meta")
    assert table.unpack(meta, tensors).device.type == "meta"
    assert table.rows(meta, tensors, torch.zeros(2, dtype=torch.int64, device="meta")).device.type == "meta"
    y = table.product(meta, tensors)(torch.empty(3, meta["shape"][1], device="meta"), "int8")
    assert y.device.type == "meta" and y.shape == (3, meta["shape"][0])


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_reference_allocates_nothing_on_a_device_that_it_was_not_given(name: str) -> None:
    packed = EXAMPLES[name]
    meta, tensors = packed.meta(), packed.tensors()
    x = torch.randn(3, packed.shape[1], generator=torch.Generator().manual_seed(2))
    with torch.device(
        "meta"
    ):  # a tensor that is made without a device is now made there, and would spoil the result
        weight_OI = table.unpack(meta, tensors)
        y_TO = table.KERNELS[packed.format, "reference"].matmul(meta, tensors, x, "int8")
        mask_OI = packed.mask()
    assert {weight_OI.device.type, y_TO.device.type, mask_OI.device.type} == {"cpu"}


def test_tensors_on_two_devices_are_refused() -> None:
    example = EXAMPLES["integer-4-symmetric"]
    tensors = example.tensors()
    tensors["scale"] = tensors["scale"].to("meta")
    with pytest.raises(FormatError, match="all on one device, got cpu, meta"):
        table.product(example.meta(), tensors)


def test_what_native_kernels_refuse_is_a_format_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(meta: object, tensors: object) -> None:
        raise ValueError("mask: expected 3, got 4")

    monkeypatch.setattr(table, "native_available", lambda: True)
    monkeypatch.setitem(table.KERNELS, ("integer", "cpu"), table.Kernels(matrix=refuse))
    example = EXAMPLES["integer-4-symmetric"]
    with pytest.raises(FormatError, match="expected 3, got 4"):
        from_tensors(example.meta(), example.tensors()).matmul(torch.zeros(1, 96))


@pytest.mark.skipif(not native_available(), reason="gossamer.kernels._native is not built")
def test_the_native_kernels_serve_the_formats_that_the_engine_runs() -> None:
    for name in ("integer-4-symmetric", "bitmask-4-symmetric", "nm-4-8", "dense-bfloat16", "low_rank"):
        assert table.matrix(EXAMPLES[name].meta(), EXAMPLES[name].tensors()) is not None
    for name in ("bitmask-4-asymmetric", "block-float32", "csr-float32"):
        assert table.matrix(EXAMPLES[name].meta(), EXAMPLES[name].tensors()) is None
