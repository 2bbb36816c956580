"""Pack a weight in the format that takes the fewest bytes, by arithmetic and without losing its mask.

    codes, no mask      integer
    codes and mask      bitmask; nm if the mask is 4:16, 8:16 or 12:16 (every window keeping at least one);
                        integer if symmetric and no kept weight has the zero code
    floats, no mask     dense
    floats and mask     bitmask; nm as above, of 16-bit values; block if the mask is made of whole blocks;
                        dense if no kept weight is zero

With factors of a low-rank part, low_rank over one of these; over none if the mask keeps nothing and there are no codes.

A tie goes to the format named first in `candidates`. coo, csr and csc are for interchange and never chosen.

O output features, I input features.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gossamer.formats import dense, integer
from gossamer.formats.bitmask import BitmaskWeight, check_mask, integer_values
from gossamer.formats.block import BlockWeight, block_mask
from gossamer.formats.dense import DenseWeight
from gossamer.formats.factors import Factors
from gossamer.formats.integer import IntegerWeight, check_quantized
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.nm import NmWeight, fewest_slots
from gossamer.formats.quantized import Quantized
from gossamer.formats.stored import StoredWeight, dtype_name, round_values

BLOCK_SHAPES = ((64, 64), (32, 32), (16, 16), (8, 8), (4, 4), (16, 1), (1, 16))
"""Shapes that are tried, rows x columns."""

Candidate = tuple[int, Callable[[], StoredWeight]]
"""Exact bytes, and how to pack."""


def pack(
    weight_OI: Tensor,
    mask_OI: Tensor | None,
    quantized: Quantized | None,
    float_dtype: torch.dtype = torch.bfloat16,
    factors: Factors | None = None,
) -> StoredWeight:
    """Return the smallest packed form of a weight; `.mask()` gives back exactly `mask_OI`.

    With codes, they decide the values and `weight_OI` is not read; without, the weights are rounded to
    `float_dtype`. With factors, the weight is what they are added to, and the mask is its mask.
    """
    if factors is not None:
        whole = quantized is None and mask_OI is not None and not bool(mask_OI.any())
        residual = None if whole else pack(weight_OI, mask_OI, quantized, float_dtype)
        return LowRankWeight.pack(factors, residual)
    if quantized is not None:
        candidates = _integer_candidates(quantized, mask_OI)
    else:
        candidates = _float_candidates(weight_OI, mask_OI, float_dtype)
    _, pack_smallest = min(candidates, key=lambda candidate: candidate[0])
    return pack_smallest()


def _integer_candidates(quantized: Quantized, mask_OI: Tensor | None) -> list[Candidate]:
    check_quantized(quantized)
    if mask_OI is None or bool(mask_OI.all()):
        bytes_dense = IntegerWeight.expected_bytes(IntegerWeight.declare(quantized))
        return [(bytes_dense, lambda: IntegerWeight.pack(quantized))]
    check_mask(mask_OI, quantized.codes_OI)
    mask = mask_OI
    values = integer_values(quantized.bits)
    candidates: list[Candidate] = []
    if integer.can_hold_mask(quantized, mask):
        declared = IntegerWeight.declare(quantized, masked=True)
        candidates.append(
            (IntegerWeight.expected_bytes(declared), lambda: IntegerWeight.pack(quantized, mask))
        )
    keep = fewest_slots(mask)
    if quantized.symmetric and keep is not None:
        declared = NmWeight.declare(mask, keep, values, quantized)
        candidates.append((NmWeight.expected_bytes(declared), lambda: NmWeight.pack(quantized, mask)))
    declared = BitmaskWeight.declare(mask, values, quantized)
    candidates.append((BitmaskWeight.expected_bytes(declared), lambda: BitmaskWeight.pack(quantized, mask)))
    return candidates


def _float_candidates(weight_OI: Tensor, mask_OI: Tensor | None, dtype: torch.dtype) -> list[Candidate]:
    rounded = round_values(weight_OI, dtype)
    shape = (weight_OI.shape[0], weight_OI.shape[1])
    bytes_dense = DenseWeight.expected_bytes(DenseWeight.declare(shape, dtype))
    if mask_OI is None or bool(mask_OI.all()):
        return [(bytes_dense, lambda: DenseWeight.pack(rounded, dtype))]
    check_mask(mask_OI, weight_OI)
    mask = mask_OI
    candidates: list[Candidate] = []
    if dense.can_hold_mask(rounded, mask):
        candidates.append((bytes_dense, lambda: DenseWeight.pack(rounded, dtype, mask)))
    for block in BLOCK_SHAPES:
        kept_RC = block_mask(mask, block)
        if kept_RC is not None:
            declared = BlockWeight.declare(shape, block, int(kept_RC.sum()), dtype)
            candidates.append(
                (BlockWeight.expected_bytes(declared), _block_packer(rounded, block, dtype, mask))
            )
    keep = fewest_slots(mask)
    if keep is not None and dtype != torch.float32:
        declared = NmWeight.declare(mask, keep, dtype_name(dtype))
        candidates.append(
            (NmWeight.expected_bytes(declared), lambda: NmWeight.pack_float(rounded, mask, dtype))
        )
    declared = BitmaskWeight.declare(mask, dtype_name(dtype))
    candidates.append(
        (BitmaskWeight.expected_bytes(declared), lambda: BitmaskWeight.pack_float(rounded, mask, dtype))
    )
    return candidates


def _block_packer(
    weight_OI: Tensor, block: tuple[int, int], dtype: torch.dtype, mask_OI: Tensor
) -> Callable[[], StoredWeight]:
    return lambda: BlockWeight.pack(weight_OI, block, dtype, mask_OI)
