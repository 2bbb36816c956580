"""What a page shows of recoveries, merged adapters and the phases of compression."""

from typing import Any

import pytest

from gossamer.report.after import merged, phases, recoveries
from gossamer.report.page import render
from tests.report.manifests import MANIFEST, Page, changed

CURVE = [
    {"step": 0, "tokens": 0, "seconds": 30.0, "loss": None, "kl": 0.5, "perplexity": 27.5},
    {"step": 4, "tokens": 8192, "seconds": 150.0, "loss": 0.4321, "kl": 0.375, "perplexity": 25.0},
    {"step": 8, "tokens": 16384, "seconds": 270.0, "loss": 0.4, "kl": 0.25, "perplexity": 24.5},
]
RECOVERY: dict[str, Any] = {
    "created": "2026-02-03T04:05:06+00:00", "curve": CURVE, "held_out_kl": {"before": 0.5, "after": 0.25},
    "held_out_perplexity": {"before": 27.5, "after": 24.5}, "kept_weights": 1234567, "notes": ["best before the end"],
    "optimizer_bytes": 4.38e8, "removed_weights": 7654321, "seconds": 301.0, "settings": {"train": "lora"},
    "share_of_peak": 0.41, "steps": 8, "teacher": {"name": "big-parent"}, "text": {"source": "spiders.txt"},
    "tokens": 16384, "tokens_per_s": 68.25,
}  # fmt: skip
MERGED: dict[str, Any] = {
    "adapter": {"name": "poems", "sha256": "cd" * 32, "base_model": "some/base"},
    "total": {"arrived": 0.0625, "relative_error": 0.97, "dropped": 0.5},
    "removed_weights": 4321, "notes": ["LITTLE ARRIVED: 6 %"],
}  # fmt: skip
PHASES = {"pruning and rounding": 150.0, "observing what the layers see": 50.0, "other": 0.0}
HOSTILE = "</script><script>alert(1)</script>"


def test_a_recovery_is_shown_with_its_curve_by_tokens_and_by_time() -> None:
    page = Page(render([changed(recovery=[RECOVERY])], ["mine"]))
    for shown in (
        "Recovery", "0.5000 before, 0.2500 after", "27.50 before, 24.50 after", "lora", "spiders.txt", "big-parent",
        "16,384", "5 min 1 s", "68.2 tokens/s", "41.0 %", "1,234,567", "7,654,321", "438 MB", "0.4321", "0.3750",
        "2 min 30 s", "best before the end", "(recovery)", "Layer by layer",
    ):  # fmt: skip
        assert shown in page.text, shown
    tokens, time = (page.figures[f"recovery-1-1-{key}"] for key in ("tokens", "time"))
    assert tokens["data"][0]["x"] == [0, 8.192, 16.384]
    assert time["data"][0]["x"] == [0.5, 2.5, 4.5]
    assert tokens["data"][0]["y"] == time["data"][0]["y"] == [0.5, 0.375, 0.25]
    low, high = tokens["layout"]["yaxis"]["range"]
    assert 0 <= low < 0.25
    assert high > 0.5


def test_errors_of_embeddings_and_zeros_that_moved_are_called_what_they_are() -> None:
    curve = [{("error" if key == "kl" else key): each for key, each in point.items()} for point in CURVE]
    entry = {key: each for key, each in RECOVERY.items() if key not in ("held_out_kl", "held_out_perplexity")}
    entry |= {"curve": curve, "held_out_error": {"before": 0.5, "after": 0.25}}
    entry |= {"moved": {"mask": "anneal", "moved": 3, "of": 24, "share": 0.125}}
    (found,) = recoveries(changed(recovery=[entry]))
    facts = dict(found.facts)
    assert facts["Held-out error of the embeddings"] == "0.5000 before, 0.2500 after"
    assert facts["Zeros"] == "7,654,321"
    assert facts["Kept weights with another place than before"] == "12.5 %"
    assert "Zeros that stayed" not in facts
    assert found.measure == "held-out error of the embeddings"
    assert [row[4] for row in found.curve] == ["0.5000", "0.3750", "0.2500"]
    page = Page(render([changed(recovery=[entry])], ["mine"]))
    assert "held-out KL" not in page.text


def test_each_of_several_recoveries_and_models_has_its_own() -> None:
    page = Page(render([changed(recovery=[RECOVERY, RECOVERY]), changed(recovery=[RECOVERY])], ["a", "b"]))
    found = {name for name in page.figures if name.startswith("recovery")}
    assert found == {
        f"recovery-{place}-{key}" for place in ("1-1", "1-2", "2-1") for key in ("tokens", "time")
    }
    assert "Recovery 2" in page.text


def test_a_model_that_was_not_recovered_says_nothing_of_it() -> None:
    page = Page(render([MANIFEST], ["mine"]))
    for absent in ("Recovery", "Merged adapter", "Where its time went"):
        assert absent not in page.text


def test_merged_adapters_and_what_arrived_of_them_are_shown() -> None:
    page = Page(render([changed(merged=[MERGED])], ["mine"]))
    for shown in (
        "Merged adapter",
        "poems",
        "cd" * 32,
        "some/base",
        "6.25 %",
        "50.0 %",
        "4,321",
        "LITTLE ARRIVED",
        "(poems)",
    ):
        assert shown in page.text, shown


def test_phases_of_compression_are_listed_by_their_time() -> None:
    run = {**MANIFEST["run"], "seconds_by_phase": PHASES}
    assert phases({"run": run}) == [
        ["pruning and rounding", "2 min 30 s", "75.0 %"],
        ["observing what the layers see", "50.0 s", "25.0 %"],
    ]
    text = Page(render([changed(run=run)], ["mine"])).text
    assert text.index("Where its time went") < text.index("pruning and rounding") < text.index("observing")


@pytest.mark.parametrize(
    "entry",
    [
        {}, {"curve": None}, {"curve": [1, None, {"kl": "x"}]}, {"curve": CURVE[:1]},
        {"tokens": "many", "seconds": -1e400},
        {"curve": [{**CURVE[0], "kl": float("nan")}, {**CURVE[1], "kl": 10**400}]}, {"held_out_kl": [1, 2]},
    ],
)  # fmt: skip
def test_entries_that_cannot_be_read_are_left_open(entry: dict[str, Any]) -> None:
    manifest = changed(recovery=[entry, 3], merged=[entry, None], run={"seconds_by_phase": [entry]})
    (recovery,) = recoveries(manifest)
    assert recovery.by_tokens is None
    assert recovery.by_seconds is None
    assert len(merged(manifest)) == 1
    assert phases(manifest) == []
    assert render([manifest], ["mine"])


def test_hostile_entries_stay_text() -> None:
    spoiled = {**RECOVERY, "notes": [HOSTILE], "text": {"source": HOSTILE}, "settings": {"train": HOSTILE}}
    adapter = {**MERGED, "adapter": {"name": HOSTILE, "base_model": HOSTILE}}
    run = {"seconds_by_phase": {HOSTILE: 3.0}}
    whole = render([changed(recovery=[spoiled], merged=[adapter], run=run)], ["mine"])
    assert HOSTILE not in whole
    assert HOSTILE in Page(whole).text
