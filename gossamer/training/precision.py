"""Whether this machine multiplies bfloat16 faster than float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def bfloat16_pays() -> bool:
    """True where the CPU has instructions for products of bfloat16; elsewhere they are emulated, and slow."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in asked)


def mixed_precision() -> AbstractContextManager[Any]:
    """While open, models multiply in bfloat16 where that pays."""
    return torch.autocast("cpu", torch.bfloat16) if bfloat16_pays() else nullcontext()
