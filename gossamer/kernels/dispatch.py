"""What the native kernels run on: instruction set, threads, and whether they are there at all.

GOSSAMER_ISA=scalar|avx2|avxvnni|avx512|amx|neon forces an instruction set, GOSSAMER_NUM_THREADS the number of threads;
both are read at the first use.
"""

import functools
import importlib
import logging
from types import ModuleType

from gossamer.errors import UsageError

logger = logging.getLogger("gossamer")


@functools.cache
def native_module() -> ModuleType | None:
    """Return `gossamer.kernels._native`, or None where it was not built; the log says so once."""
    try:
        return importlib.import_module("gossamer.kernels._native")
    except ImportError as error:
        logger.warning(
            "native kernels are not available (%s); plain torch takes over, which is slow. "
            "Reinstall gossamer with a C++20 compiler to build them.",
            error,
        )
        return None


def native_available() -> bool:
    """Return True if the native kernels can be used."""
    return native_module() is not None


def isa() -> str:
    """Return the instruction set in use: scalar, avx2, avxvnni, avx512 or amx; "none" without native kernels.

    UsageError if GOSSAMER_ISA names one that is unknown or that this machine lacks.
    """
    native = native_module()
    if native is None:
        return "none"
    try:
        return str(native.isa())
    except ValueError as error:
        raise UsageError(str(error)) from error


def available_isas() -> list[str]:
    """Return what this machine can run, slowest first; empty without native kernels."""
    native = native_module()
    return [] if native is None else list(native.available_isas())


def num_threads() -> int:
    """Return how many threads a product uses: CPUs we may use, or GOSSAMER_NUM_THREADS; 1 without native
    kernels.

    UsageError if GOSSAMER_NUM_THREADS is not a number from 1 to 1024.
    """
    native = native_module()
    if native is None:
        return 1
    try:
        return int(native.num_threads())
    except ValueError as error:
        raise UsageError(str(error)) from error


def set_num_threads(count: int) -> None:
    """Use `count` threads from the next product on; without native kernels this does nothing.

    UsageError unless 1 <= count <= 1024.
    """
    native = native_module()
    if native is None:
        return
    try:
        native.set_num_threads(count)
    except ValueError as error:
        raise UsageError(str(error)) from error
