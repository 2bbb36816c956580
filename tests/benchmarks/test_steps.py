"""The page of benchmarks/steps.py."""

from benchmarks.steps import as_page


def test_the_ratio_is_the_median_over_rounds_of_the_ratio_of_medians() -> None:
    rounds = [
        {"plain": [10.0, 12.0, 11.0], "recover": [11.0, 9.0, 22.0]},
        {"plain": [20.0, 20.0, 20.0], "recover": [30.0, 30.0, 30.0]},
        {"plain": [10.0, 10.0, 10.0], "recover": [9.0, 9.0, 9.0]},
    ]
    record = {
        "command": "c", "cpu": "a CPU", "versions": {"torch": "1"}, "date": "2026-01-01", "threads": 2,
        "precision": "float32",
        "folder": "small", "rounds": rounds,
    }  # fmt: skip
    page = as_page(record)
    assert "recover / plain: 1.00 (0.90 to 1.50)." in page
    assert "| plain | 11.0 (10.0 to 20.0) |" in page
