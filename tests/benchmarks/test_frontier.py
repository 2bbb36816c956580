"""What is said of llama.cpp's points and ours, without measuring any."""

import json
import re
from typing import Any

import pytest

from benchmarks import frontier, frontier_page, frontier_picture
from gossamer.recipe.reader import load_recipe

BENCHMARKS = frontier.README.parent / "docs/benchmarks"


def figures(perplexity: float, size_bytes: int, engine: str) -> dict[str, Any]:
    return {"perplexity": perplexity, "signature": "ppl|d:x", "size_bytes": size_bytes, "engine": engine}


@pytest.fixture
def report() -> dict[str, Any]:
    """Every point beaten but Q2_K, whose answer is too large and too slow."""
    peers = {name: figures(30.0, 100_000_000, "llama.cpp") for name in frontier.POINTS}
    answers = dict.fromkeys(frontier.ANSWERS.values())
    ours = {name: figures(25.0, 90_000_000, "native") for name in answers}
    peers["Q2_K"]["size_bytes"] = 80_000_000
    rounds = {name: [50.0, 60.0, 55.0] for name in peers} | {name: [150.0, 121.0, 120.0] for name in ours}
    rounds["Q2_K"] = [100.0, 100.0, 100.0]
    medians = {name: sorted(values)[1] for name, values in rounds.items()}
    about = {"isa": "amx", "rounds": rounds, "decode_tokens_per_s": medians, "repeated": 2}
    speed = [{**about, "threads": 1}, {**about, "threads": 2}]
    quality = {"dense": figures(24.0, 98_000_000, "native"), **peers, **ours}
    return {
        "command": "make frontier",
        "cpu": "a processor",
        "date": "2026-11-28",
        "versions": {"gossamer": "0"},
        "builds": {"best": {"flags": ["-DGGML_NATIVE=ON"], "died": []}},
        "dense": {**quality["dense"], "bf16_bytes": 250_000_000},
        "models": {name: quality[name] for name in (*peers, *ours)},
        "speed": speed,
        "rows": [
            frontier_page.compare(point, answer, quality, speed) for point, answer in frontier.ANSWERS.items()
        ],
    }


def test_every_point_has_an_answer_that_is_a_recipe() -> None:
    assert tuple(frontier.ANSWERS) == frontier.POINTS
    for name in frontier.ANSWERS.values():
        assert load_recipe(frontier.recipe_path(name)).steps


def test_a_point_is_beaten_only_if_all_three_demands_are_met(report: dict[str, Any]) -> None:
    rows = {row["point"]: row for row in report["rows"]}
    assert rows["Q4_0"]["beaten"] is True
    assert rows["Q4_0"]["speed_ratios"] == 2 * [pytest.approx([120 / 55, 121 / 60, 150 / 50])]
    assert rows["Q2_K"]["met"] == {"perplexity": True, "size": False, "speed": False}
    assert rows["Q2_K"]["beaten"] is False


def test_without_speeds_nothing_is_called_beaten(report: dict[str, Any]) -> None:
    quality = {"dense": report["dense"], **report["models"]}
    row = frontier_page.compare("Q4_0", frontier.ANSWERS["Q4_0"], quality, None)
    assert row["beaten"] is None
    page = frontier_page.as_page({**report, "speed": None, "rows": [row]})
    assert "Speed was not measured" in page
    assert "but for speed, not measured" in page


def test_the_page_says_what_was_missed_the_build_and_how_often_rounds_were_taken_again(
    report: dict[str, Any],
) -> None:
    page = frontier_page.as_page(report)
    assert re.search(r"^\| Q2_K .* no: size, speed \|$", page, re.MULTILINE)
    assert page.count("| yes |") == 4
    assert "`-DGGML_NATIVE=ON`" in page
    assert "because of other processes: 4." in page


def test_a_point_is_not_beaten_where_one_number_of_threads_is_too_slow(report: dict[str, Any]) -> None:
    slower = {**report["speed"][1]["rounds"], "stored-e6": [99.0, 99.0, 99.0]}
    quality, speed = {"dense": report["dense"], **report["models"]}, report["speed"]
    row = frontier_page.compare("Q4_0", "stored-e6", quality, [speed[0], {**speed[1], "rounds": slower}])
    assert row["met"]["speed"] is False


def test_the_picture_names_every_model_and_the_dense_one_once(report: dict[str, Any]) -> None:
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", frontier_picture.as_svg(report))
    for name in ("dense", *report["models"]):
        assert drawn.count(name) == 1, name


def test_names_in_the_picture_meet_neither_each_other_nor_a_mark() -> None:
    places = [(300.0 + 9 * number, 200.0) for number in range(8)]
    drawn = frontier_picture.labels(["a-long-name"] * 8, places)
    corners = [re.search(r"<text x='(.*?)' y='(.*?)'", part) for part in drawn if part.startswith("<text")]
    boxes = [
        frontier_picture.Box(float(found[1]), float(found[2]) - 9, float(found[1]) + 66, float(found[2]))
        for found in corners
        if found is not None
    ]
    boxes += [frontier_picture.around(*place) for place in places[:1]]
    assert len(boxes) == 9
    for number, box in enumerate(boxes):
        assert not frontier_picture.meets(box, boxes[:number])


def test_a_ratio_of_the_readme_is_that_of_two_speeds_beside_it(report: dict[str, Any]) -> None:
    rows = re.findall(r"\| ([\d.]+) \| ([\d.]+) \|$", frontier_page.results(report), re.MULTILINE)
    base = report["speed"][1]["decode_tokens_per_s"][frontier_page.BASE]
    assert len(rows) == len(report["models"])
    assert all(float(ratio) == pytest.approx(float(rate) / base, abs=0.006) for rate, ratio in rows)
    assert "tokens/s" not in frontier_page.results({**report, "speed": None})


def test_pages_and_pictures_show_what_was_measured_last() -> None:
    stored = json.loads((BENCHMARKS / "frontier.json").read_text(encoding="utf-8"))
    readme = frontier.README.read_text(encoding="utf-8")
    told = "run: python -m benchmarks.frontier --draw"
    assert frontier_page.with_results(readme, stored) == readme, told
    assert frontier_page.as_page(stored) == (BENCHMARKS / "frontier.md").read_text(encoding="utf-8"), told
    assert frontier_picture.as_svg(stored) == (BENCHMARKS / "frontier.svg").read_text(encoding="utf-8"), told
