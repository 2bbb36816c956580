"""Reading a declaration that somebody else wrote: every field is checked before it sizes a buffer or reaches
a kernel.

A declaration (`meta`) is the JSON-able dict that, together with the tensors, is a packed weight.
"""

from collections.abc import Collection, Mapping
from typing import NoReturn

import torch
from torch import Tensor

from gossamer.errors import FormatError
from gossamer.kernels.declaration import Meta

Specs = dict[str, tuple[torch.dtype, tuple[int, ...]]]

MAX_FEATURES = 2**31 - 1
FLOAT_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
VALUE_DTYPES = {**FLOAT_DTYPES, "int8": torch.int8, "int4": torch.uint8}
"""Name of a kind of stored value -> dtype of its tensor (two int4 values share a byte)."""


def fail(what: str, expected: object, got: object) -> NoReturn:
    raise FormatError(
        f"{what}: expected {expected}, got {got}. The packed data is corrupt or from another version; "
        "write it again from its source."
    )


def require(condition: bool, what: str, expected: object, got: object) -> None:
    """Raise FormatError unless the condition holds."""
    if not condition:
        fail(what, expected, got)


def read_int(meta: Meta, key: str, low: int, high: int) -> int:
    """Return meta[key], an int with low <= value <= high."""
    value = meta.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        fail(f"declaration: {key}", f"an integer from {low} to {high}", repr(value))
    return value


def read_bool(meta: Meta, key: str) -> bool:
    value = meta.get(key)
    if not isinstance(value, bool):
        fail(f"declaration: {key}", "true or false", repr(value))
    return value


def read_choice(meta: Meta, key: str, choices: Collection[str]) -> str:
    value = meta.get(key)
    if not isinstance(value, str) or value not in choices:
        fail(f"declaration: {key}", f"one of {', '.join(choices)}", repr(value))
    return value


def read_pair(meta: Meta, key: str) -> tuple[int, int]:
    """Return meta[key], two positive integers such as a shape."""
    value = meta.get(key)
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        fail(f"declaration: {key}", "two positive integers", repr(value))
    first, second = value
    for number in (first, second):
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_FEATURES:
            fail(f"declaration: {key}", f"two integers from 1 to {MAX_FEATURES}", repr(value))
    return first, second


def read_shape(meta: Meta) -> tuple[int, int]:
    """Return (O, I)."""
    return read_pair(meta, "shape")


def read_group_size(meta: Meta, num_inputs: int) -> int:
    """Return the group size: all inputs, or a multiple of 32 that divides them."""
    group_size = read_int(meta, "group_size", 1, MAX_FEATURES)
    valid = group_size == num_inputs or (group_size % 32 == 0 and num_inputs % group_size == 0)
    require(
        valid, "declaration: group_size", f"{num_inputs}, or a multiple of 32 that divides it", group_size
    )
    return group_size


def check_tensors(name: str, specs: Specs, tensors: Mapping[str, Tensor]) -> None:
    """Raise FormatError unless the tensors are exactly those of the specs, in type and shape."""
    require(set(tensors) == set(specs), f"{name}: tensors", sorted(specs), sorted(tensors))
    for key, (dtype, shape) in specs.items():
        got = tensors[key]
        require(
            got.dtype == dtype and tuple(got.shape) == shape,
            f"{name}: tensor {key}",
            f"{dtype} {list(shape)}",
            f"{got.dtype} {list(got.shape)}",
        )


def check_pointers(what: str, pointers: Tensor, last: int) -> None:
    """Raise FormatError unless the pointers start at 0, never decrease and end at `last`."""
    require(int(pointers[0]) == 0, f"{what}: first entry", 0, int(pointers[0]))
    require(int(pointers[-1]) == last, f"{what}: last entry", last, int(pointers[-1]))
    require(bool((pointers[1:] >= pointers[:-1]).all()), f"{what}: order", "never decreasing", "a decrease")


def check_range(what: str, indices: Tensor, end: int) -> None:
    """Raise FormatError unless 0 <= index < end everywhere."""
    if indices.numel():
        low, high = (int(bound) for bound in torch.aminmax(indices))
        require(low >= 0 and high < end, what, f"indices from 0 to {end - 1}", f"{low} to {high}")


def check_finite(what: str, values: Tensor) -> None:
    """Raise FormatError when a value is infinite or not a number."""
    require(bool(torch.isfinite(values).all()), what, "finite numbers", "NaN or infinity")
