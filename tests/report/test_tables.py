"""The main table of a report."""

from gossamer.report.page import render
from gossamer.report.record import TIMES
from gossamer.report.tables import Cell, Table, make_table
from tests.report.manifests import MANIFEST, changed


def cells(table: Table, label: str) -> list[Cell]:
    return next(row.cells for row in table.rows if row.label == label)


def test_table_puts_the_parent_beside_the_model_with_every_change() -> None:
    table = make_table([MANIFEST], ["mine"])
    assert [column.name for column in table.columns] == ["dense parent", "mine"]
    assert cells(table, "Size on disk") == [Cell("40.0 kB"), Cell("20.0 kB", f"2.00{TIMES} smaller")]
    assert cells(table, "Bits per weight") == [Cell("16.0"), Cell("6.40")]
    assert cells(table, "Sparsity")[1] == Cell("44.0 %")
    assert cells(table, "Perplexity") == [Cell("24.00"), Cell("48.00", f"{TIMES}2.00 (95 %: 1.90 to 2.10)")]
    assert cells(table, "Top-1 agreement")[1] == Cell("62.5 %")
    assert cells(table, "Decode") == [Cell("24.0"), Cell("60.0", f"2.50{TIMES} faster (2.25 to 2.75)")]
    assert cells(table, "Prefill")[1] == Cell("600", f"2.00{TIMES} slower (1.25 to 2.50)")
    assert cells(table, "Load time")[1] == Cell("0.500 s", f"4.00{TIMES} shorter")
    assert cells(table, "Peak memory") == [Cell(None), Cell("500 MB")]
    assert table.remarks == [
        "Perplexity: wiki, 1024 tokens.",
        "Speed: 2 threads, 64 tokens of prompt, 5 rounds.",
    ]


def test_models_of_one_parent_share_its_column_and_others_have_their_own() -> None:
    other = changed(parent={"name": "elsewhere", "sha256": "00"}, measured={})
    table = make_table([MANIFEST, other, changed()], ["a", "b", "c"])
    names = [column.name for column in table.columns]
    assert names == ["parent-1B, dense", "a", "c", "elsewhere, dense", "b"]
    assert cells(table, "Perplexity")[3:] == [Cell(None), Cell(None)]


def test_figures_that_cannot_be_compared_are_called_so() -> None:
    other = changed()
    other["measured"]["evaluation"]["perplexity_signature"] = "other text"
    other["measured"]["benchmark"].update(threads=1, noisy=True)
    table = make_table([MANIFEST, other], ["a", "b"])
    remarks = " ".join(table.remarks)
    assert "must not be compared" in remarks
    assert "different runs" in remarks
    assert table.noisy
    assert "busy with other work" in render([MANIFEST, other], ["a", "b"])
    assert "busy with other work" not in render([MANIFEST], ["a"])
