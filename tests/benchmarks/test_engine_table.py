"""The table of `make bench`: ratios are of pairs, and targets belong to a level."""

from typing import Any

import pytest

from benchmarks import engine_page, engine_table
from benchmarks.engine_table import Row
from benchmarks.rounds import Figures
from gossamer.recipe.reader import shipped_recipes

ROWS = (
    Row("int4", "Q4_0", over_peer={"avx2": 1.6, "avx512": 2.5}),
    Row("sparse", "Q4_0", over_base={"avx2": 0.8, "avx512": 1.26}),
)


def one_round(factor: float) -> Figures:
    """A machine that is `factor` times as fast as in another round."""
    int4 = {"decode": 200 * factor, "prefill": 900 * factor, "batch": 400 * factor}
    return {
        "int4": {**int4, "weight_bytes_per_token": 90e6},
        "sparse": {**int4, "decode": 300, "weight_bytes_per_token": 70e6},
        "Q4_0": {"decode": 100 * factor, "prefill": 300 * factor, "batch": 200 * factor},
        "Q8_0": {"decode": 60 * factor, "prefill": 450 * factor, "batch": 100 * factor},
    }


@pytest.fixture
def models() -> dict[str, dict[str, Any]]:
    rounds = [one_round(factor) for factor in (1.0, 0.5, 1.5)]
    found = engine_table.models_of(ROWS, rounds, "amx", {"Q4_0": 91, "Q8_0": 144})
    return {model["name"]: model for model in found}


def test_a_ratio_is_the_median_of_the_ratios_within_a_round(models: dict[str, dict[str, Any]]) -> None:
    assert models["int4"]["decode_tokens_per_s"] == 200
    ratio = models["sparse"]["ratios"]["decode"]
    assert (ratio["against"], ratio["ratio"], ratio["low"], ratio["high"]) == ("Q4_0", 3.0, 2.0, 6.0)
    assert models["int4"]["ratios"]["decode"]["ratio"] == 2.0  # the machine's own changes fall out
    assert models["int4"]["ratios"]["decode"]["low"] == models["int4"]["ratios"]["decode"]["high"]


def test_sparse_formats_are_compared_with_our_int4_and_prefill_with_the_best_file(
    models: dict[str, dict[str, Any]],
) -> None:
    assert "base" not in models["int4"]["ratios"]
    assert models["sparse"]["ratios"]["base"] == {
        "against": "int4", "ratio": 1.5, "low": 1.0, "high": 3.0, "target": 1.26,
    }  # fmt: skip
    assert models["int4"]["ratios"]["prefill"]["against"] == "Q8_0"
    assert models["int4"]["ratios"]["batch"]["ratio"] == 2.0


@pytest.mark.parametrize(("isa", "target"), [("avx2", 1.6), ("avx512", 2.5), ("amx", 2.5), ("neon", None)])
def test_targets_are_those_of_the_level(isa: str, target: float | None) -> None:
    found = engine_table.models_of(ROWS, [one_round(1.0)], isa, {"Q4_0": 91, "Q8_0": 144})
    assert found[0]["ratios"]["decode"]["target"] == target


def test_the_rows_are_shipped_recipes_and_files_that_are_made() -> None:
    assert {row.recipe for row in engine_table.ROWS} <= set(shipped_recipes())
    assert {row.peer for row in engine_table.ROWS} <= set(engine_table.PEERS)
    assert engine_table.BASE in {row.recipe for row in engine_table.ROWS}


def test_the_page_has_every_model_marks_missed_targets_and_names_the_build(
    models: dict[str, dict[str, Any]],
) -> None:
    run = {
        "level": "best", "isa": "amx", "threads": 2, "repeated": 3, "read_bandwidth_gb_per_s": 20.0,
        "models": list(models.values()),
    }  # fmt: skip
    died = ["-DGGML_NATIVE=ON: dies of SIGILL"]
    page = engine_page.as_page(
        {
            "command": "make bench", "date": "2026-11-28", "cpu": "a processor", "cores": 2,
            "versions": {"llama.cpp": "x"}, "builds": {"best": {"flags": ["-DGGML_AVX512=ON"], "died": died}},
            "amounts": {"prompt": 512, "tokens": 128, "depth": 64, "batch": 8, "batch_tokens": 64}, "rounds": 7,
            "runs": [run], "large": [run],
        }
    )  # fmt: skip
    assert page.count("| native sparse | 0.0 |") == 0
    assert (
        "| native sparse | 70.0 | 300.0 | 3.00 x Q4_0 (2.00 to 6.00) |  | 1.50 (1.00 to 3.00) | 1.26 |"
        in page
    )
    assert "2.00 x Q4_0 (2.00 to 2.00) | 2.5 (missed) |" in page
    assert page.count("| llama.cpp Q8_0 |") == 2
    assert "`-DGGML_AVX512=ON`; -DGGML_NATIVE=ON: dies of SIGILL" in page
    assert "## best (amx), 2 threads, read bandwidth 20.0 GB/s, 3 more rounds were disturbed" in page
