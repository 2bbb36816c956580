"""Hostile arrays: constructors refuse whatever could make a kernel read outside of a buffer."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gossamer.kernels import cpu, dispatch
from tests.kernels import packer
from tests.kernels.packer import Packed

native: Any = dispatch.native_module()
pytestmark = pytest.mark.skipif(native is None, reason="gossamer.kernels._native is not built")


def integer() -> Packed:
    return packer.pack_integer(np.random.default_rng(0), 20, 96, bits=7, group_size=32, symmetric=False)


def bitmask(kind: str = "int4") -> Packed:
    return packer.pack_bitmask(np.random.default_rng(0), 20, 96, kind=kind, group_size=32)


def nm(kind: str = "int8") -> Packed:
    return packer.pack_nm(np.random.default_rng(0), 20, 96, keep=8, kind=kind, group_size=32)


def narrow(window: int, kind: str = "int4") -> Packed:
    return packer.pack_narrow(np.random.default_rng(0), 20, 96, window=window, kind=kind, group_size=32)


def refused(packed: Packed, match: str) -> None:
    maker = {"integer": cpu.integer, "bitmask": cpu.bitmask, "nm": cpu.nm}[packed.meta["format"]]
    with pytest.raises(ValueError, match=match):
        maker(packed.meta, packed.tensors)


@pytest.mark.parametrize(
    "make",
    [
        integer,
        bitmask,
        nm,
        lambda: nm("int4"),
        lambda: bitmask("float16"),
        lambda: narrow(4),
        lambda: narrow(8, "int8"),
    ],
)
def test_every_array_must_have_its_length_and_type(make: Any) -> None:
    for name in make().tensors:
        for change in (lambda t: t.flatten()[:-1].contiguous(), lambda t: torch.cat([t.flatten()] * 2)):
            packed = make()
            packed.tensors[name] = change(packed.tensors[name])
            refused(packed, f"{name}|values|offsets")
        packed = make()
        packed.tensors[name] = packed.tensors[name].to(torch.float64)
        refused(packed, f"{name}: expected")


@pytest.mark.parametrize(
    "make",
    [
        integer,
        bitmask,
        nm,
        lambda: nm("int4"),
        lambda: bitmask("bfloat16"),
        lambda: narrow(4, "int8"),
        lambda: narrow(8),
    ],
)
def test_no_array_may_be_missing(make: Any) -> None:
    for name in set(make().tensors) - {"minimum"}:
        packed = make()
        packed.tensors[name] = None  # type: ignore[assignment]
        refused(packed, f"{name}: expected an array")


def test_planes_of_another_width_are_refused() -> None:
    packed = integer()
    packed.tensors["codes8"] = packed.tensors["codes1"]
    refused(packed, "codes8: expected None")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [0, 96]),
        ("shape", [20, 0]),
        ("shape", [-1, 96]),
        ("shape", [2**31, 2**31 - 64]),
        ("shape", [2**30, 2**30]),
        ("bits", 1),
        ("bits", 9),
        ("group_size", 0),
        ("group_size", -32),
        ("group_size", 16),
        ("group_size", 64),
    ],
)
def test_declarations_that_cannot_be_meant_are_refused(key: str, value: Any) -> None:
    packed = integer()
    packed.meta[key] = value
    refused(packed, "expected")


@pytest.mark.parametrize("keep", [0, 1, 5, 16])
def test_other_numbers_of_kept_weights_are_refused(keep: int) -> None:
    packed = nm()
    packed.meta["keep"] = keep
    refused(packed, "keep: expected")


@pytest.mark.parametrize(("window", "keep"), [(4, 1), (4, 4), (8, 8), (16, 2), (2, 1), (0, 0)])
def test_windows_keep_half_of_4_or_of_8(window: int, keep: int) -> None:
    packed = narrow(4)
    packed.meta |= {"window": window, "keep": keep}
    refused(packed, "keep: expected|window: expected")


def test_narrow_windows_hold_integers_only() -> None:
    packed = narrow(8, "int8")
    packed.meta["values"] = "float16"
    refused(packed, "values of a window below 16")


@pytest.mark.parametrize("kind", ["", "float64", "int3"])
def test_other_values_are_refused(kind: str) -> None:
    for packed in (bitmask(), nm()):
        packed.meta["values"] = kind
        refused(packed, "values: expected")


def test_float32_is_no_value_of_nm() -> None:
    packed = nm("float16")
    packed.meta["values"] = "float32"
    refused(packed, "values: expected")


def changed(tensor: Tensor, index: Any, value: int) -> Tensor:
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


@pytest.mark.parametrize("kind", ["int4", "int8", "float16", "float32"])
def test_offsets_must_agree_with_the_mask(kind: str) -> None:
    good = bitmask(kind)
    last = int(good.tensors["offsets"][-1])
    for index, value in ((0, 1), (0, -1), (1, 2**62), (1, -5), (1, last), (-1, last + 1), (-1, last - 1)):
        packed = bitmask(kind)
        packed.tensors["offsets"] = changed(packed.tensors["offsets"], index, value)
        refused(packed, "offsets")


def test_a_mask_with_more_bits_than_values_is_refused() -> None:
    packed = bitmask()
    packed.tensors["mask"] = changed(packed.tensors["mask"], (0, 0), -1)
    refused(packed, "offsets")


@pytest.mark.parametrize(("strip", "quad", "bit"), [(1, 0, 16), (0, 24, 0), (1, 3, 63)])
def test_mask_bits_outside_of_the_matrix_are_refused(strip: int, quad: int, bit: int) -> None:
    packed = bitmask()
    word = int(packed.tensors["mask"][strip, quad]) ^ (1 << bit if bit < 63 else -(2**63))
    packed.tensors["mask"] = changed(packed.tensors["mask"], (strip, quad), word)
    refused(packed, "mask of strip")


def test_values_without_their_padding_are_refused() -> None:
    packed = bitmask()
    packed.tensors["values"] = packed.tensors["values"][:-64]
    refused(packed, "values: expected")
    packed.tensors["values"] = packed.tensors["values"][:3]
    refused(packed, "padding")


def test_float_values_have_no_scale() -> None:
    for packed in (bitmask("float16"), nm("bfloat16")):
        packed.tensors["scale"] = torch.zeros(2, 1, 16, dtype=torch.float16)
        refused(packed, "scale: expected None")


def test_arbitrary_nm_bytes_are_harmless() -> None:
    """Any bits are columns of the window: nothing to refuse, and nothing is read or written outside."""
    rng = np.random.default_rng(1)
    for packed in (nm("int4"), narrow(4), narrow(8), narrow(4, "int8"), narrow(8, "int8")):
        tensors = {
            name: torch.from_numpy(rng.integers(0, 256, tensor.shape, dtype=np.uint8)).view(tensor.dtype)
            for name, tensor in packed.tensors.items()
            if name != "scale"
        }
        matrix = cpu.nm(packed.meta, packed.tensors | tensors)
        assert matrix is not None
        for isa in dispatch.available_isas():
            native.set_isa(isa)
            for activations in ("float", "int8"):
                assert torch.isfinite(matrix.matmul(torch.ones(40, 96), activations)).all()
        assert torch.isfinite(matrix.unpack()).all()


def test_null_addresses_and_no_tokens_are_refused() -> None:
    packed = integer()
    matrix = native.IntegerMatrix((20, 96), 7, 32, **packed.tensors)
    x_TI, y_TO = torch.zeros(1, 96), torch.zeros(1, 20)
    for arguments in (
        (0, 1, y_TO.data_ptr()),
        (x_TI.data_ptr(), 1, 0),
        (x_TI.data_ptr(), 0, y_TO.data_ptr()),
    ):
        with pytest.raises(ValueError, match="matmul"):
            matrix.matmul(*arguments, False)


def test_arrays_live_as_long_as_the_matrix() -> None:
    packed = integer()
    matrix = cpu.integer(packed.meta, {name: tensor.clone() for name, tensor in packed.tensors.items()})
    assert matrix is not None
    ballast = [torch.full((4096,), 255, dtype=torch.uint8) for _ in range(100)]
    np.testing.assert_allclose(matrix.unpack().numpy(), packed.weight_OI, rtol=1e-6, atol=1e-6)
    assert len(ballast) == 100


def test_data_may_lie_at_any_address() -> None:
    packed = bitmask("float16")
    moved = {}
    for name, tensor in packed.tensors.items():
        room = torch.zeros(tensor.numel() * tensor.element_size() + 8, dtype=torch.uint8)
        offset = tensor.element_size()  # aligned for the element, not for a register
        moved[name] = room[offset : offset + tensor.numel() * tensor.element_size()].view(tensor.dtype)
        moved[name].copy_(tensor.flatten())
    matrix, expected = cpu.bitmask(packed.meta, moved), cpu.bitmask(packed.meta, packed.tensors)
    assert matrix is not None
    assert expected is not None
    x_TI = torch.randn(3, 96)
    assert torch.equal(matrix.matmul(x_TI), expected.matmul(x_TI))
