"""The report: what it shows, what it leaves open, and that a hostile manifest cannot take it over."""

import base64
import hashlib
import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gossamer import files
from gossamer.errors import RunError, UsageError
from gossamer.report.page import default_names, render, write_report
from gossamer.report.record import TIMES
from tests.report.manifests import MANIFEST, Page, changed, layer

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


# ---- the page ---------------------------------------------------------------------------------------------


def test_page_shows_everything_the_manifest_says() -> None:
    page = Page(render([MANIFEST], ["mine"]))
    for shown in (
        "parent-1B", "48.00", f"2.50{TIMES} faster", "windows were shortened", "2 dead inputs",
        "(model.layers.0.mlp.up, model.layers.1.attn.q)", "steps:\n  - {layers: '*', method: sparsegpt}",
        "ab" * 32, "f00d", "wiki.txt", "2026-01-02T03:04:05+00:00", "3 min 21 s", "1.62 GB", "Z80",
        "cosine mean", "0.9877", "integer, 8 bits", "not packed",
    ):  # fmt: skip
        assert shown in page.text, shown
    assert set(page.figures) == {"against-size", "against-speed", "sizes", "error-1", "sparsity-1"}
    for figure in page.figures.values():
        assert figure["data"]


def test_page_tells_what_each_step_cost_and_what_training_gave_back() -> None:
    def steps(*errors: float | None) -> list[dict[str, Any]]:
        return [
            {"method": method, "relative_error": error}
            for method, error in zip(("admm", "gptq"), errors, strict=True)
        ]

    known = [
        layer(0, "attn.q", steps=steps(0.02, 0.03)),
        layer(1, "attn.q", steps=steps(0.04, 0.07)),
        layer(1, "mlp.up", steps=steps(0.125, None)),
    ]
    blocks = [
        {"name": "layers.0", "output_error": 0.25, "reconstruction": [{"before": 0.5, "after": 0.125}]},
        {"name": "layers.1", "output_error": 0.375},
        {"name": "layers.2"},
    ]
    page = Page(render([changed(layers=known, blocks=blocks)], ["mine"]))
    for shown in (
        "admm 3.00 %, gptq 5.00 %",
        "admm 12.5 %, gptq \u2013",
        "50.0 % to 12.5 %",
        "37.5 %",
        "layers.1",
    ):
        assert shown in page.text, shown
    assert "layers.2" not in page.text
    assert "What each step cost" not in Page(render([MANIFEST], ["mine"])).text


def test_page_names_the_rank_beside_the_bits() -> None:
    layers = [
        layer(0, "mlp.up", format="low_rank", rank=6),
        layer(0, "mlp.down", format="low_rank", bits=None, rank=7),
    ]
    page = Page(render([{**MANIFEST, "layers": layers}], ["mine"]))
    assert "low_rank, 4 bits, rank 6" in page.text and "low_rank, rank 7" in page.text


def test_page_needs_no_network() -> None:
    page = Page(render([MANIFEST], ["mine"]))
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "base"), tag
        assert not {"src", "href"} & set(attributes)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_policy_allows_exactly_the_scripts_of_the_page() -> None:
    page = Page(render([MANIFEST], ["mine"]))
    policy = next(str(a["content"]) for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    code = [source for attributes, source in page.scripts if "type" not in attributes]
    hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in code]
    assert len(code) == 2
    assert re.search(r"script-src ([^;]*);", policy).group(1).split() == [f"'sha256-{h}'" for h in hashes]  # type: ignore[union-attr]


def test_one_sparsity_everywhere_is_said_in_words() -> None:
    same = changed(layers=[layer(0, "mlp.up"), layer(1, "mlp.up", sparsity=0.501)])
    page = Page(render([same], ["mine"]))
    assert "50.0 % zeros in every compressed matrix" in " ".join(page.text.split())
    assert "sparsity-1" not in page.figures


def test_an_empty_manifest_gives_a_page_that_says_what_is_missing() -> None:
    page = Page(render([{}], ["mine"]))
    assert page.text.count("not measured") > 20
    assert "not recorded" in page.text
    assert page.figures == {}


def poisoned(value: Any) -> Any:
    """Every text, key included, replaced by one that wants out of its place."""
    if isinstance(value, dict):
        return {key: poisoned(each) for key, each in value.items()} | {HOSTILE: 7, f"{HOSTILE}2": HOSTILE}
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_names_stay_text() -> None:
    harmless, hostile = Page(render([MANIFEST], ["mine"])), Page(render([poisoned(MANIFEST)], [HOSTILE]))
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in harmless.tags}
    assert [a for a, _ in hostile.scripts] == [a for a, _ in harmless.scripts]
    code = [[source for a, source in page.scripts if "type" not in a] for page in (hostile, harmless)]
    assert code[0] == code[1]
    assert all("onerror" not in a for _, a in hostile.tags)
    assert HOSTILE in hostile.text
    for figure in hostile.figures.values():  # plotly reads markup in texts
        assert "<script" not in json.dumps(figure)
        assert "<img" not in json.dumps(figure)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    ("parent",), ("parent", "name"), ("parent", "sha256"), ("parent", "bf16_bytes"), ("recipe",), ("recipe_yaml",),
    ("calibration",), ("layers",), ("layers", 0), ("layers", 0, "block"), ("layers", 0, "shape"),
    ("layers", 0, "shape", 0), ("layers", 0, "relative_error"), ("layers", 0, "sparsity"), ("layers", 0, "bytes"),
    ("layers", 0, "bits"), ("layers", 0, "notes"), ("size",), ("size", "by_part"), ("size", "by_part", "mlp"),
    ("size", "total_bytes"), ("size", "weights_bytes"), ("run",), ("run", "seconds"), ("notes",), ("measured",),
    ("measured", "evaluation"), ("measured", "evaluation", "perplexity"),
    ("measured", "evaluation", "parent_perplexity"), ("measured", "evaluation", "perplexity_ratio_ci95"),
    ("measured", "benchmark"), ("measured", "benchmark", "decode_tokens_per_s"),
    ("measured", "benchmark", "against"), ("measured", "benchmark", "ratios", "decode"),
    ("measured", "benchmark", "ratios", "decode", "low"), ("created",), ("gossamer_version",),
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PATHS), ANYTHING)
@example(("layers", 0, "sparsity"), 3.6e304)  # infinite in percent
def test_any_wrong_value_still_gives_a_page(path: tuple[Any, ...], value: Any) -> None:
    manifest = deepcopy(MANIFEST)
    place: Any = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    page = Page(render([manifest, MANIFEST], default_names([manifest, MANIFEST])))
    assert "Size on disk" in page.text
    for figure in page.figures.values():
        assert "NaN" not in json.dumps(figure)
        assert "Infinity" not in json.dumps(figure)


# ---- the file ---------------------------------------------------------------------------------------------


def test_report_is_written_and_not_overwritten_unasked(tmp_path: Path) -> None:
    out = write_report([MANIFEST], tmp_path / "report.html", names=["first"])
    assert "first" in out.read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        write_report([MANIFEST], out, names=["second"])
    assert "first" in out.read_text(encoding="utf-8")
    write_report([MANIFEST], out, names=["second"], overwrite=True)
    assert "second" in out.read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_a_full_disk_leaves_the_old_report_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    out.write_text("old", encoding="utf-8")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        write_report([MANIFEST], out, overwrite=True)
    assert out.read_text(encoding="utf-8") == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one"):
        write_report([], tmp_path / "a.html")
    with pytest.raises(UsageError, match="expected 1 names"):
        write_report([MANIFEST], tmp_path / "a.html", names=["a", "b"])
    with pytest.raises(UsageError, match="folder that exists"):
        write_report([MANIFEST], tmp_path / "missing" / "a.html")
    with pytest.raises(UsageError, match="folder that exists"):
        write_report([MANIFEST], tmp_path, overwrite=True)


def test_the_real_script_of_plotly_can_stand_in_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    page = render([MANIFEST], ["mine"])
    assert len(page) > 1_000_000
    assert page.lower().count("</script>") == 7  # two of code, five of data


def test_models_are_named_by_their_recipe_and_numbered_when_alike() -> None:
    other = changed(recipe={"name": "int4"})
    assert default_names([MANIFEST, other, MANIFEST]) == ["sparse50-int4 1", "int4", "sparse50-int4 2"]
    assert default_names([{}]) == ["compressed"]
