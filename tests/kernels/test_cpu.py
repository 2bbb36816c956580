"""Every native product against float64 numpy on weights packed by an independent packer, at every instruction set.

Bounds are relative to sum |x| |w|, the scale of the rounding errors of a sum.
"""

import functools
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from gossamer.kernels import cpu, dispatch, table
from tests.kernels import packer
from tests.kernels.packer import Packed

native = dispatch.native_module()
pytestmark = pytest.mark.skipif(native is None, reason="gossamer.kernels._native is not built")

ISAS = dispatch.available_isas()
TOKENS = (1, 2, 3, 5, 16, 17, 40)
SHAPES = ((1, 16), (15, 576), (16, 100), (17, 64), (33, 100), (37, 13))
"""Odd rows and columns; groups: one per row, and the ones below."""
GROUPED = ((17, 64, 32), (33, 192, 64), (16, 288, 96), (5, 96, 32))

Make = Callable[..., Packed]
FORMATS: dict[str, Make] = {
    **{f"int{bits}": functools.partial(packer.pack_integer, bits=bits) for bits in range(2, 9)},
    **{
        f"int{bits}-asymmetric": functools.partial(packer.pack_integer, bits=bits, symmetric=False)
        for bits in range(2, 9)
    },
    **{
        f"bitmask-{kind}": functools.partial(packer.pack_bitmask, kind=kind)
        for kind in ("int4", "int8", "float16", "bfloat16", "float32")
    },
    **{
        f"nm{keep}-{kind}": functools.partial(packer.pack_nm, keep=keep, kind=kind)
        for keep in (4, 8, 12)
        for kind in ("int4", "int8", "float16", "bfloat16")
    },
    **{
        f"nm{window // 2}of{window}-{kind}": functools.partial(packer.pack_narrow, window=window, kind=kind)
        for window in (4, 8)
        for kind in ("int4", "int8")
    },
    **{f"dense-{kind}": functools.partial(packer.pack_dense, kind=kind) for kind in packer.FLOATS},
}


def build(packed: Packed) -> cpu.CpuMatrix:
    matrix = table.matrix(packed.meta, packed.tensors)
    assert isinstance(matrix, cpu.CpuMatrix)
    return matrix


def seeded(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def round_activations(x_TI: np.ndarray, group_size: int) -> np.ndarray:
    """The documented int8 activations, in float64: scale = max|x| / 127 per run, codes rounded half to even."""
    run = 32 if group_size == 32 else 64
    num_tokens, columns = x_TI.shape
    runs = np.pad(x_TI, ((0, 0), (0, -columns % run))).reshape(num_tokens, -1, run)
    scale = np.abs(runs).max(axis=2, keepdims=True) / np.float32(127)
    codes = np.rint(runs / np.where(scale == 0, np.float32(1), scale))
    assert codes.dtype == np.float32
    return (codes.astype(np.float64) * scale).reshape(num_tokens, -1)[:, :columns]


def worst_error(y_TO: torch.Tensor, x_TI: np.ndarray, weight_OI: np.ndarray) -> float:
    expected = x_TI.astype(np.float64) @ weight_OI.T
    size = np.abs(x_TI).astype(np.float64) @ np.abs(weight_OI).T
    return float((np.abs(y_TO.numpy() - expected) / (size + 1e-30)).max())


def activations_for(rng: np.random.Generator, num_tokens: int, columns: int) -> np.ndarray:
    x_TI = rng.normal(size=(num_tokens, columns)).astype(np.float32)
    x_TI[0, : columns // 3] *= 50  # outliers
    x_TI[-1, columns // 2 :] = 0  # runs whose scale is 0
    return x_TI


def check_products(packed: Packed, matrix: cpu.CpuMatrix, rng: np.random.Generator) -> None:
    for num_tokens in TOKENS:
        x_TI = activations_for(rng, num_tokens, packed.meta["shape"][1])
        y_TO = matrix.matmul(torch.from_numpy(x_TI))
        assert worst_error(y_TO, x_TI, packed.weight_OI) < 1e-5
        rounded_TI = x_TI
        if "bits" in packed.meta:
            rounded_TI = round_activations(x_TI, packed.meta["group_size"])
        y_TO = matrix.matmul(torch.from_numpy(x_TI), "int8")
        assert worst_error(y_TO, rounded_TI, packed.weight_OI) < 1e-5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FORMATS)
def test_products_match_float64_on_odd_shapes(name: str, isa: str) -> None:
    assert native is not None
    native.set_isa(isa)
    rng = seeded(name)
    for rows, columns in SHAPES:
        packed = FORMATS[name](rng, rows, columns, group_size=columns)
        check_products(packed, build(packed), rng)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [name for name in FORMATS if "float" not in name])
def test_products_match_float64_with_groups_of_any_multiple_of_32(name: str, isa: str) -> None:
    assert native is not None
    native.set_isa(isa)
    rng = seeded(name)
    for rows, columns, group_size in GROUPED:
        packed = FORMATS[name](rng, rows, columns, group_size=group_size)
        check_products(packed, build(packed), rng)


@pytest.mark.parametrize("name", FORMATS)
def test_unpack_reads_what_the_packer_wrote(name: str) -> None:
    packed = FORMATS[name](seeded(name), 33, 100, group_size=100)
    np.testing.assert_allclose(build(packed).unpack().numpy(), packed.weight_OI, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("density", [0.0, 0.03, 1.0])
@pytest.mark.parametrize("kind", ["int4", "int8", "float16", "bfloat16", "float32"])
def test_bitmasks_may_be_empty_or_full(kind: str, density: float) -> None:
    rng = seeded(kind)
    packed = packer.pack_bitmask(rng, 17, 128, kind=kind, group_size=128, density=density)
    check_products(packed, build(packed), rng)


@pytest.mark.parametrize(
    "name",
    ["int8", "int4-asymmetric", "bitmask-int4", "nm4-int4", "nm2of4-int4", "nm4of8-int4", "bitmask-bfloat16"],
)
def test_the_number_of_threads_does_not_change_a_bit(name: str) -> None:
    assert native is not None
    rng = seeded(name)
    packed = FORMATS[name](rng, 200, 320, group_size=320)
    matrix = build(packed)
    for num_tokens in (1, 2, 40):
        x_TI = torch.from_numpy(activations_for(rng, num_tokens, 320))
        for activations in ("float", "int8"):
            results = []
            for threads in (1, 2, 4):
                native.set_num_threads(threads)
                results.append(matrix.matmul(x_TI, activations))
            assert torch.equal(results[0], results[1])
            assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("byte", [0, 255])
def test_the_largest_products_do_not_overflow(bits: int, byte: int, isa: str) -> None:
    """Every code as large or as small as can be, times +-127: sums in 16 bits must have room for all of them."""
    assert native is not None
    native.set_isa(isa)
    packed = packer.pack_integer(seeded("largest"), 16, 192, bits=bits, group_size=64)
    for name in [name for name in packed.tensors if name.startswith("codes")]:
        packed.tensors[name] = torch.full_like(packed.tensors[name], byte)
    scale_OI = packed.tensors["scale"][0].T.double().repeat_interleave(64, dim=1).numpy()
    weight_OI = scale_OI * (2 ** (bits - 1) - 1 if byte else -(2 ** (bits - 1)))
    for sign in (1, -1):
        x_TI = np.full((7, 192), sign, dtype=np.float32)
        x_TI[1::2, ::2] *= -1
        y_TO = build(packed).matmul(torch.from_numpy(x_TI), "int8")
        assert worst_error(y_TO, x_TI, weight_OI) < 1e-6


@pytest.mark.parametrize("name", [name for name in FORMATS if "float" not in name])
def test_int8_activations_give_the_same_bits_on_every_level_with_vectors(name: str) -> None:
    """The scalar kernels alone round products and sums apart."""
    assert native is not None
    rng = seeded(name)
    packed = FORMATS[name](rng, 33, 192, group_size=64)
    matrix = build(packed)
    for num_tokens in (1, 3, 16, 40):
        x_TI = torch.from_numpy(activations_for(rng, num_tokens, 192))
        results = []
        for isa in ISAS[1:]:
            native.set_isa(isa)
            results.append(matrix.matmul(x_TI, "int8"))
        assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("name", ["int4", "bitmask-int4", "nm4-int4", "nm2of4-int4", "nm4of8-int8"])
def test_many_tokens_and_wide_rows_take_several_sweeps(name: str) -> None:
    """More tokens than a sweep holds and more columns than a panel: cursors continue, sums accumulate."""
    rng = seeded(name)
    packed = FORMATS[name](rng, 18, 1088, group_size=64)
    matrix = build(packed)
    x_TI = activations_for(rng, 517, 1088)
    assert worst_error(matrix.matmul(torch.from_numpy(x_TI)), x_TI, packed.weight_OI) < 1e-5
    rounded_TI = round_activations(x_TI, 64)
    assert worst_error(matrix.matmul(torch.from_numpy(x_TI), "int8"), rounded_TI, packed.weight_OI) < 1e-5


def test_int8_activations_stay_within_half_a_code_of_float_ones() -> None:
    """|x - rounded x| <= scale / 2 = max|x| / 254 in each run of 64, so |error| <= sum max|x| / 254 |w|."""
    rng = seeded("close")
    packed = packer.pack_integer(rng, 48, 256, bits=4, group_size=64)
    x_TI = rng.normal(size=(9, 256)).astype(np.float32)
    largest_TI = np.repeat(np.abs(x_TI).reshape(9, 4, 64).max(axis=2), 64, axis=1)
    bound_TO = (largest_TI / 254) @ np.abs(packed.weight_OI).T
    y_TO = build(packed).matmul(torch.from_numpy(x_TI), "int8").numpy()
    difference_TO = np.abs(y_TO - x_TI.astype(np.float64) @ packed.weight_OI.T)
    assert (difference_TO <= bound_TO * 1.001).all()
    assert difference_TO.max() > 0


@pytest.mark.parametrize("isa", ISAS)
def test_codes_next_to_a_tie_are_rounded_as_defined(isa: str) -> None:
    """x / scale = k + 1/2 up to the last bits of float32: half to even, not whatever a reciprocal gives."""
    assert native is not None
    native.set_isa(isa)
    rng = seeded("ties")
    packed = packer.pack_integer(rng, 16, 64, bits=8, group_size=64)
    for largest in rng.uniform(0.1, 10, 50).astype(np.float32):
        scale = largest / np.float32(127)
        x_TI = ((rng.integers(-126, 126, (1, 64)) + np.float32(0.5)) * scale).astype(np.float32)
        x_TI[0, 0] = largest
        y_TO = build(packed).matmul(torch.from_numpy(x_TI), "int8")
        assert worst_error(y_TO, round_activations(x_TI, 64), packed.weight_OI) < 1e-5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("activations", ["float", "int8"])
def test_nan_and_infinity_show_in_the_result(isa: str, bad: float, activations: str) -> None:
    assert native is not None
    native.set_isa(isa)
    packed = packer.pack_integer(seeded("nan"), 4, 64, bits=4, group_size=64)
    for num_tokens in (1, 3):
        x_TI = torch.zeros(num_tokens, 64)
        x_TI[0, 5] = bad
        y_TO = build(packed).matmul(x_TI, activations)
        assert not torch.isfinite(y_TO[0]).any() or (packed.weight_OI[:, 5] == 0).any()
        assert torch.equal(y_TO[1:], torch.zeros(num_tokens - 1, 4))


def test_tiny_and_zero_activations_do_not_overflow() -> None:
    packed = packer.pack_integer(seeded("tiny"), 4, 64, bits=4, group_size=64)
    for value in (0.0, 1e-45, 1e-38, 1e-31):
        y_TO = build(packed).matmul(torch.full((1, 64), value), "int8")
        assert torch.isfinite(y_TO).all()
        assert float(y_TO.abs().max()) <= 64 * 2 * value


def test_no_tokens_give_an_empty_result() -> None:
    packed = packer.pack_integer(seeded("empty"), 5, 64, bits=4, group_size=64)
    assert build(packed).matmul(torch.empty(0, 64)).shape == (0, 5)


def test_anything_but_contiguous_float32_of_the_right_width_is_refused() -> None:
    matrix = build(packer.pack_integer(seeded("refuse"), 4, 64, bits=4, group_size=64))
    for x_TI in (torch.zeros(2, 64, dtype=torch.float64), torch.zeros(64, 2).T, torch.zeros(2, 63)):
        with pytest.raises(ValueError, match="x: expected"):
            matrix.matmul(x_TI)


def test_an_asymmetric_bitmask_is_left_to_the_reference() -> None:
    packed = packer.pack_bitmask(seeded("asymmetric"), 4, 64, kind="int4", group_size=64)
    packed.tensors["minimum"] = packed.tensors["scale"]
    assert cpu.bitmask(packed.meta | {"symmetric": False}, packed.tensors) is None


def test_without_native_code_there_is_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "native_module", lambda: None)
    for maker in (cpu.integer, cpu.bitmask, cpu.nm):
        assert maker({}, {}) is None
