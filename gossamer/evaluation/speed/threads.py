"""One number of threads for torch and for our own kernels, put back afterwards."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from gossamer.errors import UsageError


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use `threads` threads inside. UsageError for fewer than one."""
    if threads < 1:
        raise UsageError(f"threads: expected at least 1, got {threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def all_threads(threads: int) -> Iterator[None]:
    """Let torch and the kernels use `threads` threads inside."""
    dispatch = kernel_dispatch()
    with torch_threads(threads):
        if dispatch is None:
            yield
            return
        before = dispatch.num_threads()
        dispatch.set_num_threads(threads)
        try:
            yield
        finally:
            dispatch.set_num_threads(before)


def kernel_dispatch() -> ModuleType | None:
    """Return the module that chooses our kernels, or None where the package was built without them."""
    try:
        return importlib.import_module("gossamer.kernels.dispatch")
    except ImportError:
        return None
