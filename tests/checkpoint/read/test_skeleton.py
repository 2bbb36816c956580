"""A model without weights: everything of it is on the meta device, and little is imported to sketch it."""

import subprocess
import sys

import pytest
import torch

from gossamer.checkpoint.read import skeleton
from tests.models import KINDS, tiny_model

CODE = """
import sys
from gossamer.cli.light_import import import_transformers
import_transformers()  # as commands do: all of transformers brings sympy along
from gossamer.checkpoint.source import open_model
open_model(sys.argv[1])
print("sympy" in sys.modules)
"""


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_of_a_skeleton_has_values(kind: str) -> None:
    config = tiny_model(kind).config
    made = skeleton.build_skeleton(config, 1000, kind)
    assert {each.device for each in (*made.parameters(), *made.buffers())} == {torch.device("meta")}


def test_a_class_that_cannot_be_built_in_the_quick_way_is_built_as_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(skeleton._TablesOnCPU):
        def __torch_function__(self, *_args: object, **_settings: object) -> None:
            raise RuntimeError("a table was mixed with a sketch")

    monkeypatch.setattr(skeleton, "_TablesOnCPU", Broken)
    made = skeleton.build_skeleton(tiny_model("llama").config, 1000, "llama")
    assert next(made.parameters()).device.type == "meta"


def test_opening_a_model_does_not_import_sympy(parent) -> None:
    command = [sys.executable, "-c", CODE, str(parent("llama"))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
