"""Levels are words for steps, and an assignment of them is a plain recipe."""

import pytest

from gossamer.errors import RecipeError
from gossamer.frontier.levels import (
    DENSE,
    OUTSIDE,
    SPARSE,
    counts,
    fitting,
    is_sparse,
    level,
    options_for,
    recipe_of,
)
from gossamer.methods.solve.low_rank import LowRankTarget
from gossamer.recipe.reader import parse_recipe
from gossamer.recipe.recipe import Calibration

LINEARS = [f"blocks.{number}.{kind}" for number in range(3) for kind in ("attn.q", "attn.o", "mlp.up")]


def test_a_name_says_all_about_the_steps() -> None:
    dense, sparse, nm = level("int3-g32-asym"), level("sparse62.5-int4-g64"), level("nm4of16-int4-row")
    assert (dense.grid.bits, dense.grid.group_size, dense.grid.symmetric) == (3, 32, False)
    assert dense.target is None
    assert sparse.target is not None
    assert sparse.target.share == 0.625
    assert nm.target is not None
    assert str(nm.target.pattern) == "4:16"
    assert nm.grid.group_size is None
    assert [step.method for step in sparse.steps] == ["admm", "gptq"]
    assert [step.method for step in level("rtn8-row").steps] == ["rtn"]


def test_a_name_says_the_share_of_a_low_rank_part() -> None:
    dense, sparse, nm = (
        level(f"{base}-rank3") for base in ("int4-g64-asym", "sparse50-int4-g64", "nm4of16-int4-g64")
    )
    assert [step.method for step in dense.steps] == ["gptq", "eora"]
    assert (
        [step.method for step in sparse.steps]
        == [step.method for step in nm.steps]
        == ["basil", "gptq", "eora"]
    )
    for each in (dense, sparse, nm):
        assert all(
            step.settings.rank_share == 0.03
            for step in each.steps
            if isinstance(step.settings, LowRankTarget)
        )
        assert (each.grid.bits, each.grid.group_size) == (4, 64)
    assert dense.target is None
    assert sparse.target is not None
    assert sparse.target.share == 0.5
    assert level("int4-g64").low_rank is None


@pytest.mark.parametrize(
    "name", ["int4", "sparse-int4-g64", "int4-g64-asymmetric", "", "q4_0", "int4-g64-rank", "int4-rank3-g64"]
)
def test_other_words_are_no_levels(name: str) -> None:
    with pytest.raises(RecipeError, match="expected a name such as"):
        level(name)


def test_groups_are_fitted_to_the_inputs() -> None:
    assert fitting("int4-g64-asym", 128) == "int4-g64-asym"
    assert fitting("int4-g64-asym", 96) == "int4-g32-asym"
    assert fitting("sparse50-int4-g64", 40) == "sparse50-int4-row"
    assert fitting("sparse50-int4-g64-rank3", 96) == "sparse50-int4-g32-rank3"
    assert fitting("int4-g64-asym-rank0.5", 40) == "int4-row-asym-rank0.5"
    assert options_for(["int4-g64", "int4-g32"], 96) == ["int4-g32"]


def test_only_levels_that_prune_are_sparse() -> None:
    assert all(is_sparse(name) for name in SPARSE)
    assert not any(is_sparse(name) for name in (*DENSE, *OUTSIDE))


def test_a_recipe_gives_every_matrix_exactly_its_level_and_survives_yaml() -> None:
    choices = ["int4-g64", "int8-row", "sparse50-int4-g64-rank3", "int4-g64-rank3"]
    assignment = {name: choices[number % 7 % 4] for number, name in enumerate(LINEARS)}
    assignment |= {"embed": "rtn6-g64", "head": "rtn8-row"}
    recipe = recipe_of(assignment, "embed", "head", Calibration(samples=4), "why")
    again = parse_recipe(recipe.to_yaml())
    assert again == recipe
    selected = {
        **again.select(LINEARS),
        **again.select(["embed"], "embeddings"),
        **again.select(["head"], "head"),
    }
    assert selected.keys() == assignment.keys()
    for name, steps in selected.items():
        expected = [(step.method, step.settings) for step in level(assignment[name]).steps]
        assert [(step.method, step.settings) for step in steps] == expected


def test_a_recipe_uses_globs_where_they_say_the_same() -> None:
    uniform = recipe_of(dict.fromkeys(LINEARS, "int4-g64"), None, None, Calibration())
    assert [step.layers for step in uniform.steps] == [("*",)]
    by_kind = {name: "int8-row" if name.endswith("o") else "int4-g64" for name in LINEARS}
    layers = [step.layers for step in recipe_of(by_kind, None, None, Calibration()).steps]
    assert layers == [("*.q", "*.up"), ("*.o",)]


def test_levels_are_counted() -> None:
    assert counts(["a", "b", "b"]) == {"b": 2, "a": 1}
