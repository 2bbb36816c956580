"""Sets of ids and levels in a fixed number of bits come back as they were, and take what theory says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.errors import FormatError
from gossamer.training.lessons.codes import Code


@st.composite
def coded(draw: st.DrawFn) -> tuple[Code, list[list[int]], list[list[int]]]:
    code = Code(draw(st.integers(1, 300_000)), draw(st.integers(1, 70)), draw(st.integers(0, 8)))
    rows = draw(st.integers(1, 3))
    ids = st.lists(st.integers(0, code.vocabulary - 1), min_size=code.count, max_size=code.count)
    levels = st.lists(st.integers(0, code.levels), min_size=code.count, max_size=code.count)
    return (
        code,
        [sorted(draw(ids)) for _ in range(rows)],
        [draw(levels) for _ in range(rows)],
    )


@given(coded())
def test_ids_and_levels_come_back_as_they_were(case: tuple[Code, list[list[int]], list[list[int]]]) -> None:
    code, ids, levels = case
    stored = code.encode(np.array(ids), np.array(levels))
    assert stored.dtype == np.uint8
    assert stored.shape == (len(ids), code.token_bytes)
    got_ids, got_levels = code.decode(stored)
    assert got_ids.tolist() == ids
    assert got_levels.tolist() == levels


def test_a_set_takes_little_more_than_its_information() -> None:
    for vocabulary in (49_152, 65_536, 128_256, 151_936, 262_144):
        information = math.log2(math.comb(vocabulary, 50))
        assert information < Code(vocabulary, 50).token_bits < 1.06 * information


def test_the_published_example_is_coded_as_published() -> None:
    """Vigna 2013, "Quasi-succinct indices", figure 1: 5, 8, 8, 15, 32 below 36 with two low bits."""
    code = Code(36, 5)
    bits = np.unpackbits(code.encode(np.array([[5, 8, 8, 15, 32]])))
    assert code.low == 2
    assert bits[:13].tolist() == [
        0,
        1,
        0,
        1,
        1,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        1,
    ]  # the figure writes the same in unary
    low = [1, 0, 0, 3, 0]
    assert bits[13:23].tolist() == [bit for each in low for bit in (each & 1, each >> 1)]


def test_bytes_that_no_ids_have_are_refused() -> None:
    code = Code(260, 5, 6)
    good = code.encode(np.array([[1, 7, 100, 101, 259]]), np.array([[0, 1, 2, 3, 63]]))
    for damage, words in ((np.uint8(0), "another number"), (np.uint8(255), "another number")):
        bad = good.copy()
        bad[0, 0] = damage
        with pytest.raises(FormatError, match=words):
            code.decode(bad)
    with pytest.raises(FormatError, match="below 258"):
        Code(258, 5, 6).decode(good)
    with pytest.raises(FormatError, match="rising"):
        code.decode(code.encode(np.array([[7, 1, 100, 101, 259]]), np.zeros((1, 5), dtype=np.int64)))
