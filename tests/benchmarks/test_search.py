"""What the comparison of searches with recipes made by hand says, without searching."""

import argparse
from typing import Any

import pytest

from benchmarks import search as hand

LINEARS = [
    f"model.layers.{number}.{kind}"
    for number in range(30)
    for kind in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )
]  # fmt: skip


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
