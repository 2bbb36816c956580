"""In which type models multiply while they are trained: bfloat16 where this machine is faster so, or as was asked."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "float32", "bfloat16")


def bfloat16_pays() -> bool:
    """True where the CPU has instructions for products of bfloat16; elsewhere they are emulated, and slow."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in asked)


def chosen(precision: Precision) -> torch.dtype:
    """Return the type of the products."""
    in_bfloat16 = precision == "bfloat16" or (precision == "auto" and bfloat16_pays())
    return torch.bfloat16 if in_bfloat16 else torch.float32


def mixed_precision(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """While open, models multiply in `dtype`."""
    return nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype)
