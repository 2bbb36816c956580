"""docs/formats.md: its code runs, its drawn bytes and its table are true."""

import math
import re
from pathlib import Path

import pytest
import torch

from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.block import BlockWeight
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.nm import NmWeight
from gossamer.formats.packed import PackedWeight
from gossamer.formats.quantized import Quantized
from gossamer.formats.sparse import CooWeight, CscWeight, CsrWeight
from tests.formats.cases import block_mask, nm_mask, quantized, random_mask, weight

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
SIZE = 512


def test_the_code_on_the_page_runs() -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)


def figures(row: str) -> list[float]:
    """The figures of the table's row that starts with these words: at d = 1, 0.5, 0.25 (NaN where empty)."""
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {row} "))
    return [float(cell) if cell.strip() else float("nan") for cell in line.strip("|").split("|")[2:]]


def codes(bits: int) -> Quantized:
    return quantized(SIZE, SIZE, bits, 64)


def pack_as(row: str, density: float) -> PackedWeight:
    mask, dense, dtype = random_mask(SIZE, SIZE, density), weight(SIZE, SIZE), torch.bfloat16
    if row.startswith("`nm`") and "2:4" in row:
        return NmWeight.pack(codes(4 if "int4" in row else 8), nm_mask(SIZE, SIZE, 2, width=4))
    if row.startswith("`nm`"):
        return NmWeight.pack(codes(4 if "int4" in row else 8), nm_mask(SIZE, SIZE, int(16 * density)))
    if row.startswith("`block`"):
        return BlockWeight.pack(dense, (16, 16), dtype, block_mask(SIZE, SIZE, (16, 16), density))
    if row.startswith("`integer`"):
        return IntegerWeight.pack(codes(8 if "8" in row else 4))
    if "int" in row:
        return BitmaskWeight.pack(codes(8 if "int8" in row else 4), mask)
    if row.startswith("`bitmask`"):
        return BitmaskWeight.pack_float(dense, mask, dtype)
    return (CsrWeight if "csr" in row else CooWeight).pack(dense, dtype, mask)


ROWS = (
    "`integer` 8 bit",
    "`integer` 4 bit",
    "`bitmask` 16 bit",
    "`bitmask` int8",
    "`bitmask` int4",
    "`nm` int4, N = 16 d",
    "`nm` int8, N = 16 d",
    "`nm` int4, 2:4 and 4:8",
    "`nm` int8, 2:4 and 4:8",
    "`block` 16 bit, 16 x 16",
    "`csr`, `csc` 16 bit",
    "`coo` 16 bit",
)


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("row", ROWS)
def test_the_table_of_bytes_per_weight_is_true(row: str, column: int) -> None:
    expected, density = figures(row)[column], (1.0, 0.5, 0.25)[column]
    if not math.isnan(expected):
        packed = pack_as(row, density)
        assert packed.num_bytes / SIZE**2 == pytest.approx(expected, rel=0.05)


def test_the_drawn_bytes_of_integer_are_true() -> None:
    drawn = torch.zeros(1, 64, dtype=torch.uint8)
    drawn[0, 0], drawn[0, 4] = 0b101101, 0b010010
    tensors = IntegerWeight.pack(Quantized(drawn, torch.ones(1, 1), None, 6, 64)).tensors()
    assert int(tensors["codes4"][0, 0, 0]) == 0b00101101
    assert int(tensors["codes2"][0, 0, 0]) == 0b0110


def test_the_drawn_bytes_of_bitmask_are_true() -> None:
    drawn, mask = torch.zeros(1, 16, dtype=torch.uint8), torch.zeros(1, 16, dtype=torch.bool)
    for column, value in {0: 1, 1: 2, 2: 3, 4: 4, 5: 5, 8: 6}.items():  # a to f
        drawn[0, column], mask[0, column] = value + 8, True
    tensors = BitmaskWeight.pack(Quantized(drawn, torch.ones(1, 1), None, 4, 16), mask).tensors()
    assert tensors["mask"][0, :3].tolist() == [0b0111, 0b0011, 0b0001]
    assert tensors["values"][:4].tolist() == [0x41, 0x52, 0x03, 0x06]


def test_the_drawn_bytes_of_nm_are_true() -> None:
    drawn, mask = torch.zeros(1, 16, dtype=torch.uint8), torch.zeros(1, 16, dtype=torch.bool)
    for column, value in {1: 3, 6: -1, 7: 2, 15: -8}.items():
        drawn[0, column], mask[0, column] = value + 8, True
    tensors = NmWeight.pack(Quantized(drawn, torch.ones(1, 1), None, 4, 16), mask).tensors()
    assert tensors["codes"][0, 0, 0, :4].tolist() == [0x31, 0xF6, 0x27, 0x8F]


def test_the_drawn_bytes_of_narrow_nm_are_true() -> None:
    drawn, mask = torch.zeros(1, 16, dtype=torch.uint8), torch.zeros(1, 16, dtype=torch.bool)
    for column, value in {1: 3, 6: -1, 8: 2, 15: -8}.items():
        drawn[0, column], mask[0, column] = value + 8, True
    tensors = NmWeight.pack(Quantized(drawn, torch.ones(1, 1), None, 4, 16), mask, (2, 4)).tensors()
    assert tensors["codes"][0, 0, :4].tolist() == [0x23, 0x00, 0x8F, 0x00]
    assert tensors["index"][0, 0, :4].tolist() == [0x01, 0x00, 0x0E, 0x00]


def test_the_drawn_indices_are_true() -> None:
    dense = torch.tensor([[0.0, 5, 0], [6, 0, 7]])
    drawn = {
        CooWeight: {"row_indices": [0, 1, 1], "col_indices": [1, 0, 2], "values": [5, 6, 7]},
        CsrWeight: {"crow_indices": [0, 1, 3], "col_indices": [1, 0, 2], "values": [5, 6, 7]},
        CscWeight: {"row_indices": [1, 0, 1], "ccol_indices": [0, 1, 2, 3], "values": [6, 5, 7]},
    }
    for kind, tensors in drawn.items():
        assert {name: t.tolist() for name, t in kind.from_dense(dense).tensors().items()} == tensors
    blocks = BlockWeight.from_dense(torch.block_diag(torch.ones(2, 2), torch.ones(2, 4)), (2, 2)).tensors()
    assert blocks["crow_indices"].tolist() == [0, 1, 3]
    assert blocks["col_indices"].tolist() == [0, 1, 2]
