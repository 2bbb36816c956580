"""The table of formats and the way back from a declaration and tensors. Nothing is inferred: `meta["format"]`
decides.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.block import BlockWeight
from gossamer.formats.checks import Specs, read_choice
from gossamer.formats.dense import DenseWeight
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.nm import NmWeight
from gossamer.formats.sparse import CooWeight, CscWeight, CsrWeight
from gossamer.formats.weight import PackedWeight
from gossamer.kernels.declaration import Meta

FORMATS: dict[str, type[PackedWeight]] = {
    "dense": DenseWeight,
    "integer": IntegerWeight,
    "bitmask": BitmaskWeight,
    "nm": NmWeight,
    "block": BlockWeight,
    "coo": CooWeight,
    "csr": CsrWeight,
    "csc": CscWeight,
    "low_rank": LowRankWeight,
}


def from_tensors(meta: Meta, tensors: Mapping[str, Tensor]) -> PackedWeight:
    """Return the packed weight. Raise FormatError when anything contradicts the declaration."""
    return _format(meta).from_tensors(meta, tensors)


def tensor_specs(meta: Meta) -> Specs:
    """Return {tensor name: (dtype, shape)}, what a loader has to allocate.

    Raise FormatError on a bad declaration.
    """
    return _format(meta).tensor_specs(meta)


def expected_bytes(meta: Meta) -> int:
    """Return the exact size of a weight so declared."""
    return _format(meta).expected_bytes(meta)


def empty_tensors(meta: Meta, device: torch.device | str | None = None) -> dict[str, Tensor]:
    """Return uninitialised tensors to be filled by a loader."""
    return {
        name: torch.empty(shape, dtype=dtype, device=device)
        for name, (dtype, shape) in tensor_specs(meta).items()
    }


def _format(meta: Meta) -> type[PackedWeight]:
    return FORMATS[read_choice(meta, "format", FORMATS)]
