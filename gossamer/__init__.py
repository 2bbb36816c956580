"""Gossamer makes language models sparse: smaller on disk, smaller in memory, really faster, with the cost shown.

The public verbs. They are imported when first used, so that `import gossamer` costs nothing; what it does at once is
to let transformers' `from_pretrained` load compressed folders.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gossamer.checkpoint.plugin import autoload

if TYPE_CHECKING:
    from gossamer.checkpoint.loading import load
    from gossamer.checkpoint.summary import inspect
    from gossamer.checkpoint.write.export import export
    from gossamer.compression.compress import compress
    from gossamer.evaluation.evaluate import evaluate
    from gossamer.evaluation.speed.bench import benchmark
    from gossamer.frontier.search import search
    from gossamer.rotation.rotate import rotate
    from gossamer.training.lessons.teach import teach
    from gossamer.training.merge import merge
    from gossamer.training.recover import recover

from gossamer.version import __version__ as __version__

_HOMES = {
    "inspect": "gossamer.checkpoint.summary",
    "compress": "gossamer.compression.compress",
    "load": "gossamer.checkpoint.loading",
    "evaluate": "gossamer.evaluation.evaluate",
    "benchmark": "gossamer.evaluation.speed.bench",
    "export": "gossamer.checkpoint.write.export",
    "merge": "gossamer.training.merge",
    "recover": "gossamer.training.recover",
    "rotate": "gossamer.rotation.rotate",
    "search": "gossamer.frontier.search",
    "teach": "gossamer.training.lessons.teach",
}

__all__ = [
    "benchmark", "compress", "evaluate", "export", "inspect", "load", "merge", "recover", "rotate", "search", "teach",
]  # fmt: skip

autoload.install()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gossamer' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
