"""Recipes: read and written without loss, matched with layers, and every mistake explained with its line."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.calibration.statistics import Gram, InputNorm
from gossamer.errors import RecipeError
from gossamer.recipe.reader import load_recipe, parse_recipe, shipped_recipes
from gossamer.recipe.recipe import Calibration, Recipe
from gossamer.recipe.table import METHODS

FULL = """description: all there is
calibration: {samples: 7, length: 64, seed: 3}
steps:
  - {layers: ["*.mlp.*", "*.fc?"], method: sparsegpt, sparsity: 0.75, damping: 0.05}
  - {layers: "*", method: wanda, pattern: "8:16"}
  - layers: "*.q_proj"
    method: magnitude
    sparsity: {"*.0.*": 0.25, "*.1.*": 0.5}
    pattern: row
  - {layers: "*", method: gptq, bits: 3, group_size: 32, symmetric: false}
  - {layers: embeddings, method: rtn, bits: 8, group_size: null}
skip: ["*.down_proj", head]
"""


def the_error(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, where="mine.yaml")
    return str(caught.value)


# ---- reading and writing ----------------------------------------------------------------------------------


def test_a_recipe_survives_yaml_and_back() -> None:
    recipe = parse_recipe(FULL)
    assert parse_recipe(recipe.to_yaml()) == recipe
    assert recipe.calibration == Calibration(samples=7, length=64, seed=3)
    assert [step.method for step in recipe.steps] == ["sparsegpt", "wanda", "magnitude", "gptq", "rtn"]
    assert recipe.steps[0].layers == ("*.mlp.*", "*.fc?")
    assert recipe.steps[2].sparsity_by_glob == (("*.0.*", 0.25), ("*.1.*", 0.5))
    assert recipe.skip == ("*.down_proj", "head")
    assert recipe.description == "all there is"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.fixed_dictionaries(
                {
                    "method": st.sampled_from(["magnitude", "wanda", "sparsegpt"]),
                    "sparsity": st.floats(0.0, 0.99),
                    "pattern": st.sampled_from(["unstructured", "row", "block 4x8"]),
                }
            ),
            st.fixed_dictionaries({"method": st.just("wanda"), "pattern": st.sampled_from(["2:4", "3:32"])}),
            st.fixed_dictionaries(
                {
                    "method": st.sampled_from(["rtn", "gptq"]),
                    "bits": st.integers(2, 8),
                    "group_size": st.sampled_from([32, 64, 256, None]),
                    "symmetric": st.booleans(),
                    "search": st.booleans(),
                }
            ),
            st.fixed_dictionaries({"method": st.just("threshold"), "threshold": st.floats(0.001, 2.0)}),
        ),
        min_size=1,
        max_size=5,
    ),
    st.text(max_size=40),
    st.integers(-5, 2**40),
)
def test_any_recipe_survives_yaml_and_back(steps: list[dict], description: str, seed: int) -> None:
    written = {"description": description, "calibration": {"seed": seed}, "steps": steps}
    recipe = parse_recipe(yaml.safe_dump(written))
    assert parse_recipe(recipe.to_yaml()) == recipe
    assert len(recipe.steps) == len(steps)
    for step, original in zip(recipe.steps, steps, strict=True):
        for key, value in original.items():
            if key not in ("method", "pattern"):
                assert getattr(step.settings, key) == value


def test_the_shipped_recipes_load_and_say_what_they_do() -> None:
    shipped = shipped_recipes()
    assert set(shipped) == {
        "sparse50",
        "sparse50-int4",
        "nm8of16-int4",
        "nm4of8-int4",
        "nm2of4-int4",
        "nm4of16-int4",
        "int8",
        "int4",
        "int4-best",
        "int3-best",
        "sparse50-fast",
        "sparse50-best",
        "sparse50-int4-best",
        "nm8of16-best",
        "nm8of16-int4-best",
        "sparse70-best",
        "sparse50-lowrank",
        "encoder-sparse50-int8",
    }
    for name, recipe in shipped.items():
        assert recipe.description, name
        assert load_recipe(name) == recipe
        assert parse_recipe(recipe.to_yaml()) == recipe
    assert shipped["nm4of16-int4"].steps[0].settings.share == 0.75
    assert not shipped["int8"].needs_calibration
    assert shipped["int4"].needs_calibration


def test_a_recipe_is_read_from_a_file_by_its_path(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FULL)
    assert load_recipe(str(path)) == parse_recipe(FULL)
    assert load_recipe(parse_recipe(FULL)) == parse_recipe(FULL)


def test_methods_need_the_statistics_that_they_declare() -> None:
    assert {name: method.settings.needs for name, method in METHODS.items()} == {
        "threshold": None, "magnitude": None, "wanda": InputNorm, "sparsegpt": Gram, "admm": Gram, "swaps": Gram,
        "oats": InputNorm, "basil": Gram, "svd": Gram, "refit": Gram, "reconstruct": None, "rtn": None,
        "gptq": Gram, "eora": Gram,
    }  # fmt: skip
    assert {name for name, method in METHODS.items() if method.quantizes} == {"rtn", "gptq"}


# ---- which step is meant for which layer ------------------------------------------------------------------


def chosen(recipe: Recipe, name: str, part: str = "linear") -> list[str]:
    return [step.method for step in recipe.select([name], part).get(name, ())]


def test_globs_choose_layers_and_steps_keep_their_order() -> None:
    recipe = parse_recipe(
        "steps: [{layers: '*.mlp.*', method: wanda}, {layers: ['*.mlp.up', 'x.attn.*'], method: rtn}]"
    )
    assert chosen(recipe, "x.mlp.up") == ["wanda", "rtn"]
    assert chosen(recipe, "x.mlp.down") == ["wanda"]
    assert chosen(recipe, "x.attn.q") == ["rtn"]
    assert chosen(recipe, "y.attn.q") == []
    assert chosen(recipe, "X.MLP.up") == []


def test_skip_wins_over_every_step() -> None:
    recipe = parse_recipe("steps: [{method: rtn}]\nskip: ['*.down', head]")
    assert chosen(recipe, "0.up") == ["rtn"]
    assert chosen(recipe, "0.down") == []


def test_a_star_does_not_reach_embeddings_or_head_but_words_and_full_names_do() -> None:
    star = parse_recipe("steps: [{layers: '*', method: rtn}]")
    assert chosen(star, "lm_head", "head") == []
    assert chosen(star, "embed_tokens", "embeddings") == []
    words = parse_recipe("steps: [{layers: [embeddings, head], method: rtn}]")
    assert chosen(words, "lm_head", "head") == ["rtn"]
    assert chosen(words, "embed_tokens", "embeddings") == ["rtn"]
    assert chosen(words, "x.mlp.up") == []
    assert chosen(parse_recipe("steps: [{layers: lm_head, method: rtn}]"), "lm_head", "head") == ["rtn"]
    skipped = parse_recipe("steps: [{layers: [embeddings, head], method: rtn}]\nskip: [head]")
    assert chosen(skipped, "lm_head", "head") == []
    assert chosen(skipped, "embed_tokens", "embeddings") == ["rtn"]


def test_a_table_gives_each_glob_its_sparsity_and_the_first_match_wins() -> None:
    recipe = parse_recipe(
        "steps:\n  - method: magnitude\n    sparsity: {'*.0.mlp': 0.9, '*.0.*': 0.2, '*.1.*': 0.6}\n"
    )
    names = ["b.0.mlp", "b.0.attn", "b.1.mlp", "b.2.mlp"]
    selected = recipe.select(names)
    assert {name: steps[0].settings.share for name, steps in selected.items()} == {
        "b.0.mlp": 0.9, "b.0.attn": 0.2, "b.1.mlp": 0.6,
    }  # fmt: skip


# ---- mistakes ---------------------------------------------------------------------------------------------

STEP = "steps:\n  - layers: '*'\n    method: {method}\n    {setting}\n"


@pytest.mark.parametrize(
    ("method", "setting", "words"),
    [
        ("sparsegpt", "sparsty: 0.5", ["line 4", "'sparsty'", "Did you mean 'sparsity'", "step 1"]),
        ("wanda", "sparsity: 1.5", ["line 4", "sparsity", "1.5"]),
        ("wanda", "sparsity: -0.1", ["line 4", "sparsity", "-0.1"]),
        ("wanda", "sparsity: .nan", ["line 4", "sparsity"]),
        ("wanda", "sparsity: half", ["line 4", "sparsity", "half"]),
        ("wanda", "sparsity: [0.5]", ["line 4", "sparsity"]),
        ("wanda", "sparsity: {'*': 1.5}", ["line 4", "sparsity", "1.5"]),
        ("wanda", "sparsity: {'*': null}", ["line 4", "sparsity"]),
        ("wanda", "sparsity: {'*': {a: 1}}", ["line 4", "sparsity"]),
        ("wanda", "sparsity: {}", ["line 4", "sparsity"]),
        ("gptq", "sparsity: {'*': 0.5}", ["line 4", "unknown key 'sparsity'", "Known keys"]),
        ("gptq", "bits: 9", ["line 4", "bits", "9"]),
        ("gptq", "bits: 1", ["line 4", "bits", "1"]),
        ("gptq", "bits: 4.5", ["line 4", "bits", "4.5"]),
        ("gptq", "bits: four", ["line 4", "bits", "four"]),
        ("gptq", "group_size: 48", ["line 4", "group_size", "48"]),
        ("rtn", "group_size: 0", ["line 4", "group_size", "0"]),
        ("rtn", "grop_size: 32", ["line 4", "'grop_size'", "Did you mean 'group_size'"]),
        ("rtn", "symmetric: perhaps", ["line 4", "symmetric", "perhaps"]),
        ("wanda", "pattern: '4:2'", ["line 4", "pattern", "4:2"]),
        ("wanda", "pattern: '0:4'", ["line 4", "pattern", "0:4"]),
        ("wanda", "pattern: '2:64'", ["line 4", "pattern", "2:64", "32"]),
        ("wanda", "pattern: 2:4", ["line 4", "pattern", "quotes"]),
        ("wanda", "pattern: zigzag", ["line 4", "pattern", "zigzag"]),
        ("wanda", "pattern: block 0x4", ["line 4", "pattern"]),
        ("wanda", "pattern: {a: b}", ["line 4", "pattern"]),
        ("eora", "rank: 0", ["line 4", "rank", "0"]),
        ("svd", "rank_share: 1.5", ["line 4", "rank_share", "1.5"]),
        ("basil", "rank: 4\n    rank_share: 0.1", ["rank", "not both"]),
        ("magnitude", "scope: galactic", ["line 4", "scope", "galactic"]),
        ("magnitude", "{scope: global", ["not valid YAML"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(method: str, setting: str, words: list[str]) -> None:
    message = the_error(STEP.replace("{method}", method).replace("{setting}", setting))
    assert message.startswith("mine.yaml")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["steps"]),
        ("# nothing\n", ["steps"]),
        ("steps: []", ["line 1", "steps", "at least one"]),
        ("steps: {method: rtn}", ["line 1", "list"]),
        ("steps:\n  - rtn\n", ["line 2", "table", "rtn"]),
        ("steps:\n  - {layers: '*'}\n", ["line 2", "method", "missing", "sparsegpt"]),
        ("steps:\n  - {layers: '*',\n     method: sparsgpt}\n", ["line 3", "sparsgpt", "Did you mean 'sparsegpt'"]),
        ("steps:\n  - {method: [rtn]}\n", ["line 2", "method"]),
        ("steps:\n  - {method: {rtn: 1}}\n", ["line 2", "method"]),
        ("steps:\n  - {method: null}\n", ["line 2", "method"]),
        ("steps:\n  - {method: rtn}\n  - {method: wanda, layers: 3}\n", ["line 3", "step 2", "glob"]),
        ("steps:\n  - {method: rtn, layers: []}\n", ["line 2", "glob"]),
        ("steps:\n  - {method: rtn, layers: ['']}\n", ["line 2", "glob"]),
        ("steps:\n  - {method: rtn}\nskip: 7\n", ["line 3", "glob", "7"]),
        ("step:\n  - {method: rtn}\n", ["line 1", "'step'", "Did you mean 'steps'"]),
        ("calibration: 4\nsteps: [{method: rtn}]\n", ["line 1", "calibration", "table"]),
        ("calibration:\n  sample: 4\nsteps: [{method: rtn}]", ["line 2", "'sample'", "Did you mean 'samples'"]),
        ("calibration:\n  samples: 0\nsteps: [{method: rtn}]", ["line 2", "samples"]),
        ("calibration:\n  align: true\n  aim: false\nsteps: [{method: rtn}]", ["line 3", "'aim'", "'align'", "one"]),
        ("calibration:\n  length: many\nsteps: [{method: rtn}]", ["line 2", "length", "many"]),
        ("steps:\n  - method: rtn\n    bits: 4\n    bits: 8\n", ["line 4", "bits", "repeated"]),
        ("steps:\n  - {method: rtn, 4: 8}\n", ["line 2", "4"]),
        ("steps: [", ["not valid YAML"]),
        ("a: b: c", ["not valid YAML", "line 1"]),
        ("--- 1\n--- 2\n", ["not valid YAML"]),
        ("just words", ["table", "str"]),
        ("- a\n- b\n", ["table", "list"]),
        ("steps: [{method: rtn}]\nseed: 2024-13-45\n", ["mine.yaml"]),
        ("steps: !!python/object/apply:os.system ['true']", ["line 1", "step"]),
        ("\x00\x01", ["not valid YAML"]),
        ("[" * 20_000, ["mine.yaml"]),
        ("steps: &a [*a]\n", ["mine.yaml"]),
        ("<<: {steps: [{method: rtn}]}\n", ["mine.yaml"]),
        ("steps: [{method: rtn, bits: " + "9" * 5000 + "}]", ["mine.yaml"]),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_explained(text: str, words: list[str]) -> None:
    message = the_error(text)
    for word in words:
        assert word in message
    assert len(message) < 1500


def test_the_former_name_of_a_key_means_the_same() -> None:
    [old, new] = (
        parse_recipe(f"calibration: {{{key}: false}}\nsteps: [{{method: gptq}}]") for key in ("aim", "align")
    )
    assert old == new and not old.calibration.align


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "too large" in the_error("\n".join(lines))


def test_a_sparsity_that_contradicts_the_pattern_is_refused() -> None:
    message = the_error("steps: [{method: wanda, pattern: '2:4', sparsity: 0.75}]")
    assert "2:4" in message
    assert "0.5" in message


def test_an_unknown_recipe_names_the_nearest_shipped_one(tmp_path) -> None:
    with pytest.raises(RecipeError, match=r"Did you mean 'sparse50-int4'.*int8"):
        load_recipe("sparse50_int4")
    with pytest.raises(RecipeError, match="neither a file"):
        load_recipe(str(tmp_path))
    binary = tmp_path / "x.yaml"
    binary.write_bytes(b"\xff\xfe\x80steps")
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(str(binary))
