"""Make `AutoModel.from_pretrained` understand compressed folders, without importing transformers before it is needed.

If transformers is loaded already, the quantizer is registered at once; otherwise right after
`transformers.modeling_utils` (which every model class needs) has been imported by whoever does so first.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_TARGET = "transformers.modeling_utils"


def install() -> None:
    """Register now, or as soon as transformers is there. Calling it again does nothing."""
    if _TARGET in sys.modules:
        importlib.import_module("gossamer.checkpoint.plugin.quantizer").register()
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds only the target, with its usual loader, and registers once the module has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _TARGET:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                importlib.import_module("gossamer.checkpoint.plugin.quantizer").register()

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec
