"""A model without weights: everything of it is on the meta device, and little is imported to sketch it."""

import subprocess
import sys

import pytest
import torch
import transformers

from gossamer.checkpoint.read import skeleton
from tests.models import KINDS, tiny_model

CODE = """
import sys
from gossamer.cli.light_import import import_transformers
import_transformers()  # as commands do: all of transformers brings sympy along
from gossamer.checkpoint.source import open_model
open_model(sys.argv[1]).model
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
    monkeypatch.setattr(skeleton, "_MIXING", set())
    model = tiny_model("llama")
    made = skeleton.build_skeleton(model.config, 1000, "llama")
    assert next(made.parameters()).device.type == "meta"
    with skeleton.sketched(type(model)), torch.device("meta"):
        assert torch.arange(3).is_meta  # what reads its weights will not try again


def test_what_is_real_has_values_beside_a_sketch() -> None:
    with skeleton.sketched(transformers.LlamaForCausalLM):
        assert torch.arange(3).tolist() == [0, 1, 2]
        assert torch.nn.init.ones_(torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.locked
def test_opening_and_reading_a_model_does_not_import_sympy(parent) -> None:
    command = [sys.executable, "-c", CODE, str(parent("llama"))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
