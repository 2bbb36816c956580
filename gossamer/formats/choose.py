"""Which format holds a weight: the one of fewest bytes, by arithmetic and without losing the mask.

    codes, no mask      integer
    codes and mask      bitmask; nm if symmetric and the mask is 2:4, 4:8, 4:16, 8:16 or 12:16, except for
                        4:8 with no empty window;
                        integer if symmetric and no kept weight has the zero code
    floats, no mask     dense
    floats and mask     bitmask; nm of 16, as above, of 16-bit values; block if the mask is made of whole blocks;
                        dense if no kept weight is zero

With factors of a low-rank part, low_rank over one of these; over none if the mask keeps nothing and there are no
codes.

`pack` asks a mask what it is like, `predict_bytes` is told; from there on the choice is the same (`forms`). A tie goes
to the form named first, of nm to 2:4: a mask that is 2:4 is 4:8 and 8:16 too, and 2:4 and 4:8 take the same bytes. coo,
csr and csc are for interchange and never chosen.

O output features, I input features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gossamer.formats import dense, integer
from gossamer.formats.bitmask import BitmaskWeight, check_mask, integer_values, strip_lengths
from gossamer.formats.block import BlockWeight, block_mask
from gossamer.formats.checks import FLOAT_DTYPES, require
from gossamer.formats.dense import DenseWeight
from gossamer.formats.factors import Factors
from gossamer.formats.integer import IntegerWeight, check_quantized
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.nm import PATTERNS, NmWeight, fitting_patterns
from gossamer.formats.packed import expected_bytes
from gossamer.formats.quantized import Quantized
from gossamer.formats.tiles import to_tiles
from gossamer.formats.weight import PackedWeight, dtype_name, round_values
from gossamer.kernels.declaration import Meta

BLOCK_SHAPES = ((64, 64), (32, 32), (16, 16), (8, 8), (4, 4), (16, 1), (1, 16))
"""Shapes that are tried, rows x columns."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """What the choice goes by in a mask."""

    num_values: int
    """Elements that a bitmask would store."""
    windows: tuple[tuple[int, int], ...] = ()
    """The N and M of nm, in its order, for which it is N:M."""
    blocks: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """Block shape -> blocks kept, for the shapes of which the mask is made."""
    zero_means_removed: bool = False
    """No kept weight is zero."""


def forms(
    shape: tuple[int, int], dtype: torch.dtype, codes: Meta | None, pattern: Pattern | None
) -> list[Meta]:
    """Return the declarations that can hold such a weight.

    `codes`, if any, are bits, group_size and symmetric; values without codes are stored in `dtype`. No pattern: every
    weight is kept.
    """
    masked = pattern is not None
    found = []
    if codes is None and (pattern is None or pattern.zero_means_removed):
        found.append(DenseWeight.declare(shape, dtype, masked=masked))
    if codes is not None and (pattern is None or (pattern.zero_means_removed and codes["symmetric"])):
        found.append(IntegerWeight.declare(shape, codes, masked=masked))
    if pattern is None:
        return found
    values = dtype_name(dtype) if codes is None else integer_values(codes["bits"])
    if codes is None:
        found += [BlockWeight.declare(shape, *block, dtype) for block in pattern.blocks.items()]
    if dtype != torch.float32 if codes is None else codes["symmetric"]:
        windows = [(n, m) for n, m in pattern.windows if codes is not None or m == 16]
        found += [NmWeight.declare(shape, window, values, codes) for window in windows]
    found.append(BitmaskWeight.declare(shape, values, pattern.num_values, codes))
    return found


# ---- with the weight at hand -------------------------------------------------------------------------------


def pack(
    weight_OI: Tensor,
    mask_OI: Tensor | None,
    quantized: Quantized | None,
    float_dtype: torch.dtype = torch.bfloat16,
    factors: Factors | None = None,
) -> PackedWeight:
    """Return the smallest packed form of a weight; `.mask()` gives back exactly `mask_OI`.

    With codes, they decide the values and `weight_OI` is not read; without, the weights are rounded to
    `float_dtype`. With factors, the weight is what they are added to, and the mask is its mask.
    """
    if factors is not None:
        whole = quantized is None and mask_OI is not None and not bool(mask_OI.any())
        residual = None if whole else pack(weight_OI, mask_OI, quantized, float_dtype)
        return LowRankWeight.pack(factors, residual)
    matrix_OI = round_values(weight_OI, float_dtype) if quantized is None else quantized.codes_OI
    if quantized is not None:
        check_quantized(quantized)
    if mask_OI is not None:
        check_mask(mask_OI, matrix_OI)
        mask_OI = None if bool(mask_OI.all()) else mask_OI
    pattern = None if mask_OI is None else _pattern(matrix_OI, mask_OI, quantized, float_dtype)
    shape, codes = (
        (matrix_OI.shape[0], matrix_OI.shape[1]),
        None if quantized is None else quantized.declaration(),
    )
    smallest = min(forms(shape, float_dtype, codes, pattern), key=expected_bytes)
    return _pack_as(smallest, matrix_OI, mask_OI, quantized, float_dtype)


def repack(meta: Meta, weight_OI: Tensor, mask_OI: Tensor, quantized: Quantized | None) -> PackedWeight:
    """Return other values in the form that `meta` declares (none of two factors): the same tensors, the same bytes.

    `mask_OI` is that of the values which the form held; with codes, they decide and `weight_OI` is not read. Where a
    zero means "removed" (`masked`), a kept weight that has become 0 is removed too.

    FormatError when the form cannot hold them: NaN, too large, or a form of no mask with removed weights.
    """
    dtype = FLOAT_DTYPES.get(str(meta.get("values")), torch.float32)
    matrix_OI = round_values(weight_OI, dtype) if quantized is None else quantized.codes_OI
    mask: Tensor | None = mask_OI
    if meta["format"] in ("dense", "integer"):
        zero = 0 if quantized is None else integer.zero_code(quantized.bits)
        mask = mask_OI & (matrix_OI != zero) if meta["masked"] else None
    packed = _pack_as(meta, matrix_OI, mask, quantized, dtype)
    require(packed.meta() == meta, "repack: declaration", dict(meta), packed.meta())
    return packed


def _pattern(matrix_OI: Tensor, mask_OI: Tensor, quantized: Quantized | None, dtype: torch.dtype) -> Pattern:
    if quantized is None:
        values, holds = dtype_name(dtype), dense.can_hold_mask(matrix_OI, mask_OI)
        kept = {block: block_mask(mask_OI, block) for block in BLOCK_SHAPES}
    else:
        values, holds = integer_values(quantized.bits), integer.can_hold_mask(quantized, mask_OI)
        kept = {}
    return Pattern(
        num_values=int(strip_lengths(to_tiles(mask_OI).sum(dim=2), values).sum()),
        windows=fitting_patterns(mask_OI),
        blocks={block: int(kept_RC.sum()) for block, kept_RC in kept.items() if kept_RC is not None},
        zero_means_removed=holds,
    )


def _pack_as(
    form: Meta, matrix_OI: Tensor, mask_OI: Tensor | None, quantized: Quantized | None, dtype: torch.dtype
) -> PackedWeight:
    """Return the codes, or where there are none the rounded weights, in the form that was chosen."""
    name = form["format"]
    if name == "integer":
        assert quantized is not None
        return IntegerWeight.pack(quantized, mask_OI)
    if name == "dense":
        return DenseWeight.pack(matrix_OI, dtype, mask_OI)
    assert mask_OI is not None
    if name == "block":
        return BlockWeight.pack(matrix_OI, (form["block"][0], form["block"][1]), dtype, mask_OI)
    if name == "nm":
        window = (form["keep"], form.get("window", 16))
        if quantized is not None:
            return NmWeight.pack(quantized, mask_OI, window)
        return NmWeight.pack_float(matrix_OI, mask_OI, dtype, window)
    if quantized is not None:
        return BitmaskWeight.pack(quantized, mask_OI)
    return BitmaskWeight.pack_float(matrix_OI, mask_OI, dtype)


# ---- before there is one -----------------------------------------------------------------------------------


def predict_bytes(
    shape: tuple[int, int],
    dtype: torch.dtype,
    *,
    codes: Meta | None = None,
    kept: float = 1.0,
    window: tuple[int, int] | None = None,
    block: tuple[int, int] | None = None,
    rank: int | None = None,
    factors_only: bool = False,
) -> int:
    """Return the bytes that `pack` will need, if the mask keeps what it is meant to.

    `kept`: the share of weights that it keeps. `window`: N and M where it is N:M throughout. `block`: rows and columns
    where it is made of blocks. `rank`: of factors beside, or with `factors_only` in place of the weight.
    """
    if rank is not None and factors_only:
        return expected_bytes(LowRankWeight.declare_factors(shape, rank, None))
    pattern = None
    if kept < 1.0:
        num_kept = round(kept * shape[0] * shape[1])
        in_nibbles = codes is not None and integer_values(codes["bits"]) == "int4"
        pattern = Pattern(
            num_values=-(-num_kept // 2) if in_nibbles else num_kept,
            windows=() if window is None else _windows(*window),
            blocks={} if block is None else _blocks(num_kept, block),
            zero_means_removed=codes is None,
        )
    chosen = min(forms(shape, dtype, codes, pattern), key=expected_bytes)
    return expected_bytes(chosen if rank is None else LowRankWeight.declare_factors(shape, rank, chosen))


def _windows(n: int, m: int) -> tuple[tuple[int, int], ...]:
    """Return the patterns of nm that hold every mask of n of m."""
    return tuple((keep, window) for keep, window in PATTERNS if window % m == 0 and keep * m >= n * window)


def _blocks(num_kept: int, block: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Return how many blocks hold so many weights, for each shape of which the given blocks are made."""
    return {
        (rows, columns): -(-num_kept // (rows * columns))
        for rows, columns in BLOCK_SHAPES
        if block[0] % rows == 0 == block[1] % columns
    }
