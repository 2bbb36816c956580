"""What every format promises: declared tensors, exact bytes, round trips through files, refusals."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gossamer.errors import FormatError
from gossamer.formats.packed import FORMATS, empty_tensors, expected_bytes, from_tensors, tensor_specs
from tests.formats.cases import EXAMPLES

every_format = pytest.mark.parametrize("name", EXAMPLES)


def test_the_table_names_each_class_by_its_own_format() -> None:
    assert {name: kind.format for name, kind in FORMATS.items()} == {name: name for name in FORMATS}
    assert {example.format for example in EXAMPLES.values()} == set(FORMATS)


@every_format
def test_specs_and_bytes_are_those_of_the_tensors(name: str) -> None:
    packed = EXAMPLES[name]
    meta, tensors = packed.meta(), packed.tensors()
    assert tensor_specs(meta) == {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
    size = sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())
    assert packed.num_bytes == expected_bytes(meta) == size
    assert {key: tensor.dtype for key, tensor in empty_tensors(meta, "meta").items()} == {
        key: tensor.dtype for key, tensor in tensors.items()
    }


@every_format
def test_safetensors_and_json_carry_everything(name: str, tmp_path: Path) -> None:
    packed = EXAMPLES[name]
    save_file(packed.tensors(), tmp_path / "weight.safetensors")
    meta = json.loads(json.dumps(packed.meta()))
    back = from_tensors(meta, load_file(tmp_path / "weight.safetensors"))
    assert back.meta() == packed.meta()
    assert torch.equal(back.unpack(), packed.unpack())
    assert torch.equal(back.mask(), packed.mask())


@every_format
def test_the_product_is_that_of_the_unpacked_weight(name: str) -> None:
    packed = EXAMPLES[name]
    x = torch.randn(3, packed.shape[1], generator=torch.Generator().manual_seed(2))
    expected = x.double() @ packed.unpack().double().T
    assert torch.allclose(packed.matmul(x).double(), expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(pickle.loads(pickle.dumps(packed)).matmul(x), packed.matmul(x))
    assert torch.equal(copy.deepcopy(packed).matmul(x), packed.matmul(x))


@every_format
def test_tensors_of_another_type_shape_or_name_are_refused(name: str) -> None:
    meta, tensors = EXAMPLES[name].meta(), EXAMPLES[name].tensors()
    for key, tensor in tensors.items():
        for wrong in (tensor.to(torch.float64), tensor[..., None], tensor.flatten()[:-1]):
            with pytest.raises(FormatError, match=f"tensor {key}: expected"):
                from_tensors(meta, {**tensors, key: wrong})
        with pytest.raises(FormatError, match="tensors: expected"):
            from_tensors(meta, {other: t for other, t in tensors.items() if other != key})
    with pytest.raises(FormatError, match="tensors: expected"):
        from_tensors(meta, {**tensors, "extra": torch.zeros(1)})


@every_format
def test_declarations_that_cannot_be_meant_are_refused(name: str) -> None:
    meta, tensors = EXAMPLES[name].meta(), EXAMPLES[name].tensors()
    junk = (None, -1, 0, 2**40, 1.5, "x", [], [0, 4], [4, -4], [4, 2**40], {}, float("nan"), True, False)
    for key in meta:
        for wrong in junk:
            if wrong == meta[key] or (key == "masked" and isinstance(wrong, bool)):
                continue
            with pytest.raises(FormatError, match="expected"):
                from_tensors({**meta, key: wrong}, tensors)
        if key != "format":
            with pytest.raises(FormatError, match="expected"):
                from_tensors({other: value for other, value in meta.items() if other != key}, tensors)


def changed(name: str, key: str, index: Any, value: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Declaration and tensors of an example, with one entry of one tensor changed."""
    packed = EXAMPLES[name]
    tensors = {other: tensor.clone() for other, tensor in packed.tensors().items()}
    tensors[key][index] = value
    return packed.meta(), tensors


@pytest.mark.parametrize(
    ("name", "key", "index", "value", "message"),
    [
        ("integer-4-symmetric", "scale", (0, 0, 0), float("nan"), "finite"),
        ("integer-4-symmetric", "scale", (1, 0, 15), 1.0, "padding"),
        ("integer-4-asymmetric", "minimum", (0, 0, 0), float("inf"), "finite"),
        ("bitmask-4-symmetric", "offsets", 0, 1, "first entry"),
        ("bitmask-4-symmetric", "offsets", 1, 2**62, "order"),
        ("bitmask-4-symmetric", "offsets", 1, -5, "order"),
        ("bitmask-4-symmetric", "offsets", -1, 10, "last entry"),
        ("bitmask-4-symmetric", "offsets", 1, 3, "values of strip 0"),
        ("bitmask-4-symmetric", "mask", (0, slice(0, 24)), -1, "values of strip 0"),
        ("bitmask-4-symmetric", "mask", (1, 0), 1 << 40, "outside the matrix"),
        ("bitmask-4-symmetric", "mask", (0, -1), 1, "outside the matrix"),
        ("bitmask-8-symmetric", "mask", (0, slice(0, 24)), 0, "values of strip 0"),
        ("bitmask-4-symmetric", "values", -1, 1, "padding"),
        ("bitmask-2-symmetric", "values", 0, 7, "values: expected -2 to 1"),
        ("bitmask-5-symmetric", "values", 0, 100, "values: expected -16 to 15"),
        ("bitmask-float32", "values", 0, float("inf"), "finite"),
        ("nm-4-4", "codes", (0, 0, 0, slice(0, 4)), 0x15, "ascending"),
        ("nm-4-4", "codes", (0, 0, 0, 1), 0, "ascending"),
        ("nm-4-8", "codes", (0, 0, 1, 3), 0x30, "empty slots"),
        ("nm-4-4", "codes", (2, 0, 0, 60), 0x11, "outside the matrix"),
        ("nm-4-4", "codes", (0, 7, 0, 0), 0x11, "outside the matrix"),
        ("nm-float16", "index", (0, 4, 0, 1), 0xF4, "last window"),
        ("nm-3-4", "codes", (0, 0, 0, 0), 0x70, "-4 to 3"),
        ("nm-float16", "values", (0, 0, 0, 0), float("nan"), "finite"),
        ("nm-4-2of4", "index", (0, 0, slice(0, 2)), 0xFF, "ascending"),
        ("nm-4-2of4", "index", (2, 0, 60), 1, "outside the matrix"),
        ("nm-4-2of4", "index", (0, 2, 3), 3, "last window"),
        ("nm-4-2of4", "codes", (0, 7, 0), 0x11, "outside the matrix"),
        ("nm-3-2of4", "codes", (0, 0, 0), 0x07, "-4 to 3"),
        ("nm-4-4of8", "mask", (0, 0, 0, 0), 0xFF, "bits of a mask"),
        ("nm-4-4of8", "mask", (0, 7, 0, 0), 1, "mask outside the matrix"),
        ("nm-4-4of8", "mask", (0, 0, 0, 0), 1, "empty slots"),
        ("nm-8-4of8", "values", (2, 0, 0, 60), 1, "empty slots"),
        ("dense-float32", "weight", (0, 0), float("nan"), "finite"),
        ("block-float32", "crow_indices", 1, -1, "order"),
        ("block-float32", "crow_indices", 1, 2**31 - 1, "order"),
        ("block-float32", "col_indices", 0, -1, "indices from 0 to 8"),
        ("block-float32", "col_indices", 0, 9, "indices from 0 to 8"),
        ("block-float32", "col_indices", 0, 8, "ascending"),
        ("csr-float32", "crow_indices", 1, 2**31 - 1, "order"),
        ("csr-float32", "col_indices", 0, 70, "indices from 0 to 69"),
        ("csr-float32", "col_indices", 0, 69, "ascending"),
        ("csc-float32", "ccol_indices", 0, 3, "first entry"),
        ("csc-float32", "row_indices", 0, 21, "indices from 0 to 20"),
        ("coo-float32", "row_indices", 0, -3, "indices from 0 to 20"),
        ("coo-float32", "col_indices", 0, 70, "indices from 0 to 69"),
        ("coo-float32", "row_indices", 0, 20, "unique, sorted"),
        ("coo-float32", "values", 0, float("nan"), "finite"),
        ("low_rank", "left_weight", (0, 0), float("nan"), "finite"),
        ("low_rank-integer-factor", "right_scale", (0, 0, 0), float("inf"), "finite"),
        ("low_rank-bitmask-4-symmetric", "residual_mask", (1, 0), 1 << 40, "outside the matrix"),
        ("low_rank-bitmask-4-symmetric", "residual_offsets", 1, 2**62, "order"),
        ("low_rank-nm-4-8", "residual_codes", (0, 0, 1, 3), 0x30, "empty slots"),
    ],
)
def test_hostile_contents_are_refused(name: str, key: str, index: Any, value: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        from_tensors(*changed(name, key, index, value))


@pytest.mark.parametrize("side", ["row", "column"])
def test_blocks_with_values_outside_the_matrix_are_refused(side: str) -> None:
    packed = EXAMPLES["block-float32"]  # 21 x 70 in blocks of 4 x 8: both sides are padded
    tensors = {key: tensor.clone() for key, tensor in packed.tensors().items()}
    if side == "row":
        tensors["values"][-1, 1, 0] = 1.0
    else:
        last = int((tensors["col_indices"] == 8).nonzero()[0])
        tensors["values"][last, 0, 6] = 1.0
    with pytest.raises(FormatError, match="outside the matrix"):
        from_tensors(packed.meta(), tensors)


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(FormatError, match="one of dense, integer"):
        from_tensors({"format": "zip"}, {})
