"""`import gossamer` is all that from_pretrained needs, before transformers or after it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Case

LOAD = "print(type(AutoModelForCausalLM.from_pretrained(sys.argv[1]).lm_head).__name__)\n"


def run(code: str, folder: Path) -> list[str]:
    command = [sys.executable, "-W", "error", "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_gossamer_may_be_imported_before_transformers(compressed: Callable[[str], Case]) -> None:
    code = (
        "import sys, importlib.util, gossamer\n"
        "from gossamer.checkpoint.plugin import autoload\n"
        "def count(): return sum(type(finder).__name__ == '_AfterImport' for finder in sys.meta_path)\n"
        "autoload.install()\n"
        "print(count())\n"
        "importlib.util.find_spec('transformers.modeling_utils')\n"  # looking is not importing
        "from transformers import AutoModelForCausalLM, LlamaForCausalLM\n"
        "print(count())\n"
        "autoload.install()\n"
    )
    assert run(code + LOAD, compressed("llama").folder) == ["1", "0", "SparseLinear"]


def test_gossamer_may_be_imported_after_transformers(compressed: Callable[[str], Case]) -> None:
    code = "import sys\nfrom transformers import AutoModelForCausalLM, LlamaForCausalLM\nimport gossamer\n"
    assert run(code + LOAD, compressed("llama").folder) == ["SparseLinear"]
