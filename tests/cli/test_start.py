"""How a command starts: what reaches stderr, and what is imported."""

import logging
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from gossamer.cli.start import only_our_words
from tests.cli.runs import Run


def test_only_our_log_and_no_warning_reaches_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with only_our_words():
        warnings.warn("of another library", stacklevel=1)
        logging.getLogger("torch.other").warning("of another library")
        logging.getLogger("gossamer.kernels.table").warning("no kernel here")
    assert capsys.readouterr().err == "gossamer: no kernel here\n"


def test_a_command_says_at_once_what_it_opens(run: Callable[..., Run], parent) -> None:
    result = run("inspect", parent("llama"), "--json")
    assert result.err == f"opening {parent('llama')}\n"


SCRIPT = """
import sys, warnings
from gossamer.cli.start import only_our_words, start
with only_our_words():
    start("x")
    import torch, transformers
    from transformers import LlamaForCausalLM
    assert not {"sklearn", "scipy.optimize", "torch.distributed.tensor"} & set(sys.modules)
    warnings.warn("of another library")
    transformers.utils.logging.get_logger("transformers.x").warning("of another library")
    assert torch._dynamo.config is sys.modules["torch._dynamo.config"]
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
    from scipy.optimize import nnls
    assert isinstance(TransformGetItemToIndex, type) and nnls([[1.0]], [2.0])[0] == [2.0]
"""


@pytest.mark.locked
def test_modules_with_stand_ins_are_had_when_they_are_needed_and_libraries_are_silent() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "opening x\n")


OTHER_VERSION = """
from gossamer.cli import light_import
light_import._ASIDE = ()  # so that transformers asks the compiler for more than its stand-in has
light_import.import_transformers()
import torch
from transformers import LlamaConfig, LlamaForCausalLM
assert not isinstance(torch._dynamo, light_import._Compiler)
config = LlamaConfig(
    vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, pad_token_id=None
)
LlamaForCausalLM(config)(torch.tensor([[1, 2]]))
"""


def test_a_version_of_transformers_that_needs_more_than_stand_ins_is_imported_as_ever() -> None:
    done = subprocess.run([sys.executable, "-c", OTHER_VERSION], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
