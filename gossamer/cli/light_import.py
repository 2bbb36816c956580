"""Import transformers without torch's compiler, distributed tensors and scipy's optimizers.

transformers 5 imports these with every model: to mark functions for the compiler, for models spread over machines, and
for losses of object detection. Nothing here uses them, and they are half of the time of the import. Stand-ins take
their places; what is asked of them that they do not know is had from the real modules, which are imported then.
"""

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest import mock

_COMPILER = "torch._dynamo"
_MARKS = ("allow_in_graph", "assume_constant_result", "disable")
"""Functions of the compiler that only mark others for it: without it they return what they are given."""
_ASIDE = ("torch._dynamo._trace_wrapped_higher_order_op", "scipy.optimize")


class _Compiler(ModuleType):
    """Stands in for the compiler until more than marks are asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _mark if name in _MARKS else getattr(_real(_COMPILER), name)


class _Aside(ModuleType):
    """Stands in for a module while transformers is imported; its functions and classes are had when they are called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **settings: getattr(_real(self.__name__), name)(*args, **settings)


def import_transformers() -> None:
    """Import what models need of torch and transformers; all of it where several processes run one command."""
    if "transformers.modeling_utils" in sys.modules or "WORLD_SIZE" in os.environ:
        return
    with _no_collection():
        _import_quickly()


def _import_quickly() -> None:
    import torch
    from transformers import utils

    asked = "is_torch_distributed_available"
    if _COMPILER not in sys.modules:
        sys.modules[_COMPILER] = vars(torch)["_dynamo"] = _Compiler(_COMPILER)
    before = set(sys.modules)
    try:
        without = (mock.patch.object(module, asked, _no) for module in (utils, utils.import_utils))
        with _stand_ins_aside(), next(without), next(without):
            from transformers import GenerationMixin, PreTrainedModel  # noqa: F401
    except (ImportError, AttributeError, TypeError):  # a version that needs more: as ever, then
        for name in [each for each in sys.modules if each.startswith("transformers.") and each not in before]:
            del sys.modules[name]  # what it got of stand-ins would stay in it
        _real(_COMPILER)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """While open, Python does not look for garbage, and never again in what was made meanwhile: modules stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def _stand_ins_aside() -> Iterator[None]:
    absent = [name for name in _ASIDE if name not in sys.modules]
    sys.modules.update({name: _Aside(name) for name in absent})
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def _real(name: str) -> ModuleType:
    """Return the real module; the compiler's stand-in has then had its time."""
    if isinstance(sys.modules.get(_COMPILER), _Compiler):
        del sys.modules[_COMPILER]
        vars(sys.modules["torch"]).pop("_dynamo", None)
    for aside in _ASIDE:
        if isinstance(sys.modules.get(aside), _Aside):
            del sys.modules[aside]
    return importlib.import_module(name)


def _mark(function: Callable[..., Any] | None = None, *_args: Any, **_settings: Any) -> Any:
    return _keep if function is None else function


def _keep(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _no() -> bool:
    return False
