"""What the benchmarks say about figures, without taking any."""

import argparse
import json
import re
from typing import Any

import pytest

from benchmarks import frontier, frontier_page, frontier_picture
from benchmarks import search as hand
from gossamer.recipe.reader import load_recipe

BENCHMARKS = frontier.README.parent / "docs/benchmarks"
LINEARS = [
    f"model.layers.{number}.{kind}"
    for number in range(30)
    for kind in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )
]  # fmt: skip


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
    speed = {
        "rounds": rounds,
        "decode_tokens_per_s": {name: sorted(values)[1] for name, values in rounds.items()},
        "noisy": False,
    }
    quality = {"dense": figures(24.0, 98_000_000, "native"), **peers, **ours}
    return {
        "command": "make frontier",
        "cpu": "a processor",
        "versions": {"gossamer": "0"},
        "dense": {**quality["dense"], "bf16_bytes": 250_000_000},
        "models": {name: quality[name] for name in (*peers, *ours)},
        "speed": speed,
        "rows": [
            frontier_page.compare(point, answer, quality, speed) for point, answer in frontier.ANSWERS.items()
        ],
    }


def test_every_point_has_an_answer_that_is_a_recipe() -> None:
    assert frontier.ANSWERS.keys() == frontier.POINTS.keys()
    for name in frontier.ANSWERS.values():
        assert load_recipe(frontier.recipe_path(name)).steps


def test_a_point_is_beaten_only_if_all_three_demands_are_met(report: dict[str, Any]) -> None:
    rows = {row["point"]: row for row in report["rows"]}
    assert rows["Q4_0"]["beaten"] is True
    assert rows["Q4_0"]["speed_ratio"] == pytest.approx([120 / 55, 121 / 60, 150 / 50])
    assert rows["Q2_K"]["met"] == {"perplexity": True, "size": False, "speed": False}
    assert rows["Q2_K"]["beaten"] is False


def test_without_speeds_nothing_is_called_beaten(report: dict[str, Any]) -> None:
    quality = {"dense": report["dense"], **report["models"]}
    row = frontier_page.compare("Q4_0", frontier.ANSWERS["Q4_0"], quality, None)
    assert row["beaten"] is None
    page = frontier_page.as_page({**report, "speed": None, "rows": [row]})
    assert "Speed was not measured" in page
    assert "but for speed, not measured" in page


def test_the_page_says_what_was_missed_and_whether_to_believe_the_run(report: dict[str, Any]) -> None:
    page = frontier_page.as_page(report)
    assert re.search(r"^\| Q2_K .* no: size, speed \|$", page, re.MULTILINE)
    assert page.count("| yes |") == 4
    assert "Noisy" not in page
    report["speed"]["noisy"] = True
    assert "Noisy run" in frontier_page.as_page(report)


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
    base = report["speed"]["decode_tokens_per_s"][frontier_page.BASE]
    assert len(rows) == len(report["models"])
    assert all(float(ratio) == pytest.approx(float(rate) / base, abs=0.006) for rate, ratio in rows)
    assert "| not measured |  |" in frontier_page.results({**report, "speed": None})


def test_pages_and_pictures_show_what_was_measured_last() -> None:
    stored = json.loads((BENCHMARKS / "frontier.json").read_text(encoding="utf-8"))
    readme = frontier.README.read_text(encoding="utf-8")
    told = "run: python -m benchmarks.frontier --draw"
    assert frontier_page.with_results(readme, stored) == readme, told
    assert frontier_page.as_page(stored) == (BENCHMARKS / "frontier.md").read_text(encoding="utf-8"), told
    assert frontier_picture.as_svg(stored) == (BENCHMARKS / "frontier.svg").read_text(encoding="utf-8"), told


@pytest.mark.parametrize("name", hand.HAND)
def test_a_hand_made_recipe_gives_every_matrix_one_level(name: str) -> None:
    recipe = hand.hand_recipe(name, argparse.Namespace(samples=4, length=64))
    selected = recipe.select(LINEARS)
    assert selected.keys() == set(LINEARS)
    assert all([step.method for step in steps] in (["gptq"], ["admm", "gptq"]) for steps in selected.values())
    assert recipe.select(["embed"], "embeddings").keys() == {"embed"}


def test_a_search_wins_if_no_hand_made_recipe_that_fits_is_better() -> None:
    by_hand = {
        "small": {"size_bytes": 70e6, "perplexity": 26.0},
        "large": {"size_bytes": 90e6, "perplexity": 24.0},
    }

    def result(perplexity: float, size_bytes: float) -> dict[str, Any]:
        verified = {"perplexity": perplexity, "size_bytes": size_bytes}
        return {"chosen": {"verified": verified}, "verdict": "", "dense": {"perplexity": 20.0}}

    assert hand.compare(80, result(25.9, 79e6), by_hand)["won"] is True
    assert hand.compare(80, result(26.1, 79e6), by_hand)["won"] is False
    assert hand.compare(80, result(25.0, 81e6), by_hand)["won"] is False
    assert hand.compare(95, result(25.0, 79e6), by_hand)["best_by_hand"] == "large"
