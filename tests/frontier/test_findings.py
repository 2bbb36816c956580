"""What was measured is kept as earlier versions keep it, read again, and held against the budget."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gossamer.errors import UsageError
from gossamer.frontier.budget import parse_budget
from gossamer.frontier.findings import FIRST_FACTOR, MARGIN, Findings
from gossamer.frontier.record import Candidate, DenseFigures, Failed, Figures, Predicted, Verified
from gossamer.frontier.state import STATE_FILE, State

DENSE = {
    "size_bytes": 1000, "perplexity": 20.0, "perplexity_signature": "ppl|x", "latency_ms": 4.0,
    "evaluate_seconds": 0.5,
}  # fmt: skip
STORED: dict[str, Any] = {
    "name": "best at size=1KB", "family": "mixed", "assignment": {"a": "int4-g64"},
    "predicted": {"size_bytes": 500.0, "latency_ms": None, "perplexity_ratio": 1.1}, "size_bytes": 510,
    "weights_bytes": 400, "perplexity": 24.0, "perplexity_signature": "ppl|x", "engine": "native", "latency_ms": 2.0,
    "compress_seconds": 3.0, "seconds": 5.0, "time_factor": 1.5,
}  # fmt: skip
"""A model as state.json has held it from its first version on."""
FAILED = {key: STORED[key] for key in ("name", "family", "predicted")} | {
    "assignment": {"a": "int3-g64"}, "error": "no good",
}  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path, {})
    state.put("dense", "figures", DENSE)
    return state


def model(size_bytes: int, perplexity: float, latency_ms: float = 2.0, name: str = "m") -> Verified:
    figures = Figures(
        size_bytes=size_bytes, weights_bytes=1, perplexity=perplexity, perplexity_signature="ppl|x", engine="native",
        latency_ms=latency_ms, compress_seconds=1.0, seconds=2.0,
    )  # fmt: skip
    assignment = {"a": f"int4-g{size_bytes}"}
    return Verified(Candidate(name, "mixed", assignment), Predicted(1.0, None, 1.0), figures, 1.0)


def test_a_table_of_an_earlier_version_is_read_and_written_as_it_was(state: State) -> None:
    state.put("verified", "k", STORED)
    state.put("verified", "l", FAILED)
    found = Findings(state, parse_budget("size=1KB"))
    assert found.dense == DenseFigures(**DENSE)  # type: ignore[arg-type]
    verified, failed = found.records.values()
    assert isinstance(verified, Verified) and isinstance(failed, Failed)
    assert found.verified() == [verified]
    assert (verified.figures.size_bytes, verified.predicted.perplexity_ratio, failed.error) == (
        510,
        1.1,
        "no good",
    )
    assert verified.to_dict() == STORED
    assert failed.to_dict() == FAILED
    assert asdict(found.dense) == DENSE


def test_a_table_that_lacks_a_figure_is_refused_with_what_to_do(state: State) -> None:
    state.put("verified", "k", {key: value for key, value in STORED.items() if key != "engine"})
    with pytest.raises(UsageError, match=r"state.json.*another version.*engine.*another -o"):
        Findings(state, parse_budget("size=1KB"))


def test_what_is_added_is_on_disk_at_once(state: State) -> None:
    found = Findings(state, parse_budget("size=1KB"))
    found.add(model(900, 21.0))
    stored = json.loads((state.path.parent / STATE_FILE).read_text())["sections"]["verified"]
    assert [each["size_bytes"] for each in stored.values()] == [900]


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [("size=1KB", "large"), ("latency=3ms", "small"), ("perplexity=+25%", "small"),
     ("perplexity=+10%", "large"), ("perplexity=+1%", "large")],
)  # fmt: skip
def test_the_chosen_model_is_the_best_within_the_budget_else_the_nearest(
    budget: str, chosen: str, state: State
) -> None:
    found = Findings(state, parse_budget(budget))
    assert found.chosen() is None
    found.add(model(500, 24.0, latency_ms=2.0, name="small"))
    found.add(model(900, 21.0, latency_ms=4.0, name="large"))
    best = found.chosen()
    assert best is not None
    assert best.candidate.name == chosen


def test_expected_times_learn_from_the_slowest_run(state: State) -> None:
    found = Findings(state, parse_budget("size=1KB"))
    assert found.time_factor() == FIRST_FACTOR
    state.put("verified", "k", STORED)
    assert Findings(state, parse_budget("size=1KB")).time_factor() == pytest.approx(1.5 * MARGIN)
