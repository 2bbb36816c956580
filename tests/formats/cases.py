"""Small weights for the tests of formats, and one packed example of every format."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.block import BlockWeight
from gossamer.formats.dense import DenseWeight
from gossamer.formats.factors import Factors
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.nm import NmWeight
from gossamer.formats.quantized import Quantized
from gossamer.formats.sparse import CooWeight, CscWeight, CsrWeight
from gossamer.formats.weight import PackedWeight

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def quantized(
    num_rows: int, num_columns: int, bits: int = 4, group_size: int = 0, symmetric: bool = True, seed: int = 0
) -> Quantized:
    """Random codes; group_size 0 means one scale per row."""
    generator = torch.Generator().manual_seed(seed)
    group_size = group_size or num_columns
    codes = torch.randint(0, 1 << bits, (num_rows, num_columns), generator=generator, dtype=torch.uint8)
    grid = (num_rows, num_columns // group_size)
    scale = (torch.rand(grid, generator=generator) + 0.1).half().float()
    minimum = None if symmetric else -torch.rand(grid, generator=generator).half().float()
    return Quantized(codes, scale, minimum, bits, group_size)


def weight(num_rows: int, num_columns: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(seed))


def random_mask(num_rows: int, num_columns: int, density: float = 0.5, seed: int = 0) -> Tensor:
    return torch.rand(num_rows, num_columns, generator=torch.Generator().manual_seed(seed)) < density


def nm_mask(num_rows: int, num_columns: int, keep: int, seed: int = 0, width: int = 16) -> Tensor:
    """Exactly `keep` of every window of `width`; all of the last, shorter window if it has fewer."""
    scores = torch.rand(num_rows, num_columns, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(num_rows, num_columns, dtype=torch.bool)
    for start in range(0, num_columns, width):
        window = scores[:, start : start + width]
        best = window.topk(min(keep, window.shape[1]), dim=1).indices
        mask[:, start : start + width].scatter_(1, best, True)
    return mask


def factors(num_rows: int, num_columns: int, rank: int, seed: int = 0) -> Factors:
    return Factors.rounded(weight(num_rows, rank, seed), weight(rank, num_columns, seed + 1))


def block_mask(
    num_rows: int, num_columns: int, block: tuple[int, int], density: float = 0.4, seed: int = 0
) -> Tensor:
    blocks = random_mask(-(-num_rows // block[0]), -(-num_columns // block[1]), density, seed)
    whole = blocks.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return whole[:num_rows, :num_columns].contiguous()


def all_formats() -> dict[str, PackedWeight]:
    """One small example of every format and kind of value, of odd shapes."""
    examples: dict[str, PackedWeight] = {}
    for bits in range(2, 9):
        for symmetric in (True, False):
            kind = f"{bits}-{'symmetric' if symmetric else 'asymmetric'}"
            codes = quantized(19, 96, bits, 32, symmetric, seed=bits)
            examples[f"integer-{kind}"] = IntegerWeight.pack(codes)
            examples[f"bitmask-{kind}"] = BitmaskWeight.pack(codes, random_mask(19, 96, 0.4))
    for bits in (3, 4, 8):
        for keep in (4, 8, 12):
            codes = quantized(33, 80, bits, seed=keep)
            examples[f"nm-{bits}-{keep}"] = NmWeight.pack(codes, nm_mask(33, 80, keep))
        for pattern in ((2, 4), (4, 8)):
            mask = nm_mask(33, 70, pattern[0], width=pattern[1])
            examples[f"nm-{bits}-{pattern[0]}of{pattern[1]}"] = NmWeight.pack(
                quantized(33, 70, bits), mask, pattern
            )
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        dense, mask = weight(21, 70), random_mask(21, 70, 0.3)
        examples[f"dense-{name}"] = DenseWeight.pack(dense, dtype)
        examples[f"bitmask-{name}"] = BitmaskWeight.pack_float(dense, mask, dtype)
        if dtype != torch.float32:
            examples[f"nm-{name}"] = NmWeight.pack_float(dense, nm_mask(21, 70, 4), dtype)
        examples[f"block-{name}"] = BlockWeight.pack(dense, (4, 8), dtype, block_mask(21, 70, (4, 8)))
        for kind in (CooWeight, CsrWeight, CscWeight):
            examples[f"{kind.format}-{name}"] = kind.pack(dense, dtype, mask)
    examples["low_rank"] = LowRankWeight.pack(factors(19, 96, 5), None)
    for residual in ("integer-4-symmetric", "bitmask-4-asymmetric", "bitmask-4-symmetric", "nm-4-8", "dense-float16",
                     "bitmask-bfloat16", "block-float32"):  # fmt: skip
        part = examples[residual]
        examples[f"low_rank-{residual}"] = LowRankWeight.pack(factors(*part.shape, 3), part)
    right = IntegerWeight.pack(quantized(7, 96, 8, 32))
    examples["low_rank-integer-factor"] = LowRankWeight.join(
        DenseWeight.pack(weight(19, 7), torch.bfloat16), right, None
    )
    return examples


EXAMPLES = all_formats()

shapes = st.tuples(st.integers(1, 40), st.integers(1, 100))
"""Odd shapes for one scale per row."""


@st.composite
def quantized_weights(draw: st.DrawFn, symmetric: bool | None = None) -> Quantized:
    """Codes of any width, shape and legal group size."""
    num_rows = draw(st.integers(1, 40))
    if draw(st.booleans()):
        group_size = draw(st.sampled_from((32, 64, 96)))
        num_columns = group_size * draw(st.integers(1, 3))
    else:
        group_size = num_columns = draw(st.integers(1, 150))
    if symmetric is None:
        symmetric = draw(st.booleans())
    bits = draw(st.integers(2, 8))
    return quantized(num_rows, num_columns, bits, group_size, symmetric, draw(st.integers(0, 1000)))


@st.composite
def masks(draw: st.DrawFn, num_rows: int, num_columns: int) -> Tensor:
    """Masks from empty to full."""
    density = draw(st.sampled_from((0.0, 0.05, 0.5, 0.9, 1.0)))
    return random_mask(num_rows, num_columns, density, draw(st.integers(0, 1000)))
