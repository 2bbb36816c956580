"""The public surface, pinned: a change here is a change for every user."""

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gossamer
from gossamer import errors


def test_the_public_verbs_are_these() -> None:
    assert sorted(gossamer.__all__) == [
        "benchmark",
        "compress",
        "evaluate",
        "export",
        "inspect",
        "load",
        "merge",
        "recover",
        "rotate",
        "search",
        "teach",
    ]
    assert set(gossamer.__all__) <= set(dir(gossamer))


def test_the_package_has_the_version_that_it_is_installed_under() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert gossamer.__version__ == project["version"] == "0.2.0"


def test_each_verb_is_documented_and_typed() -> None:
    for name in gossamer.__all__:
        verb = getattr(gossamer, name)
        assert inspect.isfunction(verb)
        assert verb.__doc__
        signature = inspect.signature(verb)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(each.annotation is not inspect.Parameter.empty for each in signature.parameters.values())


def test_the_arguments_of_the_verbs_are_these() -> None:
    arguments = {
        name: list(inspect.signature(getattr(gossamer, name)).parameters) for name in gossamer.__all__
    }
    assert arguments["compress"] == [
        "model", "recipe", "out", "text", "samples", "length", "seed", "layers", "overwrite", "resume", "minutes",
        "device", "recover_minutes", "recover_steps", "progress",
    ]  # fmt: skip
    assert arguments["load"] == ["path", "dtype", "activations"]
    assert arguments["export"] == ["model", "out", "format", "dtype", "overwrite"]
    assert arguments["merge"] == ["model", "adapter", "out", "parent", "overwrite", "progress"]
    assert arguments["recover"] == [
        "model", "parent", "out", "text", "lessons", "self_tokens", "text_out", "minutes", "steps", "settings",
        "overwrite", "resume", "progress",
    ]  # fmt: skip
    assert arguments["rotate"] == [
        "model", "out", "what", "untie", "seed", "dtype", "overwrite", "progress",
    ]  # fmt: skip
    assert arguments["evaluate"] == [
        "model", "text", "against", "length", "num_windows", "stride", "activations", "engine", "progress",
    ]  # fmt: skip
    assert arguments["benchmark"] == [
        "model", "against", "threads", "prompt", "prompt_tokens", "tokens", "repeats", "load_repeats", "activations",
        "engine", "peer", "progress",
    ]  # fmt: skip
    assert arguments["search"] == [
        "model", "budget", "text", "out", "minutes", "samples", "length", "seed", "windows", "keep", "recover_minutes",
        "recover_steps", "progress",
    ]  # fmt: skip
    assert arguments["teach"] == [
        "model", "text", "out", "others", "length", "windows", "k", "samples", "seed", "engine", "activations",
        "progress",
    ]  # fmt: skip


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = gossamer.quantise  # type: ignore[attr-defined]


def test_every_error_is_one_of_ours_and_drawn_in_the_tree() -> None:
    classes = {name: each for name, each in vars(errors).items() if inspect.isclass(each)}
    assert set(classes) == {
        "GossamerError", "UsageError", "RecipeError", "CheckpointError", "UnsupportedModelError", "FormatError",
        "DataError", "CalibrationError", "RunError", "DiskError", "ProcessError",
    }  # fmt: skip
    assert errors.__doc__ is not None
    for name, each in classes.items():
        assert issubclass(each, errors.GossamerError)
        assert name in errors.__doc__


def test_importing_gossamer_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, gossamer; print([m for m in ('torch', 'transformers', 'numpy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
