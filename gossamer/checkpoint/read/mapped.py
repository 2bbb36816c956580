"""Weights that are read from mapped files count as memory of the process until their pages are given back."""

import ctypes
import mmap
from collections.abc import Iterable
from functools import cache
from typing import Any

from torch import Tensor

MADV_PAGEOUT = 21
"""Linux 5.4: reclaim these pages now. It never changes what they hold, whatever they are: madvise(2)."""


def give_back_pages(tensors: Iterable[Tensor]) -> None:
    """Let the kernel take back the pages of these tensors; mapped files are read again when asked for.

    Advice: where the kernel knows none, or will not take it, nothing happens.
    """
    advise = _madvise()
    for tensor in tensors:
        if advise is None or tensor.device.type != "cpu" or not tensor.nbytes:
            continue
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            advise(start, end - start, MADV_PAGEOUT)


@cache
def _madvise() -> Any:
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
