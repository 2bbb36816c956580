"""Figures as people read them."""

import pytest

from gossamer.report import record


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1234567, "1,234,567"), (24.034, "24.0"), (0.5, "0.500"), (0.0002, "0.000200"), (0.99996, "1.00"),
     (1e-9, "1.00e-09"),
     (-2.5, "-2.50"), (None, None)],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, shown: str | None) -> None:
    assert record.plain(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (999_960, "1.00 MB"), (74_200_000, "74.2 MB"),
     (1.62e9, "1.62 GB"), (None, None)],
)  # fmt: skip
def test_sizes_are_in_decimal_units(value: float | None, shown: str | None) -> None:
    assert record.size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.500 s"), (119, "119 s"), (201, "3 min 21 s"), (7322, "2 h 2 min"), (None, None)],
)
def test_times_are_in_units_of_people(value: float | None, shown: str | None) -> None:
    assert record.seconds(value) == shown
