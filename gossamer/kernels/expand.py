"""Bitmasks that the engine multiplies as dense integers, on CPUs that cannot expand bytes by a mask.

AVX-512 with VBMI2 spreads 64 packed bytes over the lanes of a mask in one instruction. Elsewhere (AVX2, NEON) it takes
ten times as many, and an int4 bitmask decodes at 0.6 of dense int4 although it reads fewer bytes. There the engine
makes the dense codes of each such matrix once, when the model is opened: 4 bits a weight in memory instead of 3 at half
density, the same bits in every result. The folder stays as small as it is. GOSSAMER_EXPAND=0 keeps bitmasks packed, 1
expands them on every CPU.

O output features, I input features.
"""

import os
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import UsageError
from gossamer.kernels.declaration import Meta, Tensors
from gossamer.kernels.dispatch import isa, native_module
from gossamer.kernels.reference import low_rank_part

EXPANDS_BYTES = ("avx512", "amx")
"""Levels whose kernels expand bytes by a mask in one instruction."""
CHOICES = {"": None, "0": False, "1": True}


def expands() -> bool:
    """Return whether int4 bitmasks become dense integers. UsageError if GOSSAMER_EXPAND is neither 0 nor 1."""
    wish = os.environ.get("GOSSAMER_EXPAND", "")
    if wish not in CHOICES:
        raise UsageError(f"GOSSAMER_EXPAND: expected 0 or 1, got {wish!r}.")
    chosen = CHOICES[wish]
    return isa() not in (*EXPANDS_BYTES, "none") if chosen is None else chosen


def as_multiplied(meta: Meta, tensors: Tensors) -> tuple[Meta, Tensors]:
    """Return a matrix in the form in which the engine multiplies it on this CPU."""
    return expanded(meta, tensors) if expands() else (meta, tensors)


def expanded(meta: Meta, tensors: Tensors) -> tuple[Meta, Tensors]:
    """Return the same matrix with a symmetric int4 bitmask as dense integers, also as the residual of `low_rank`.

    Any other matrix is returned as it is. ValueError when the tensors contradict `meta`.
    """
    if meta["format"] == "low_rank" and meta["residual"] is not None:
        return _residual_expanded(meta, tensors)
    native = native_module()
    if native is None or meta["format"] != "bitmask" or meta["values"] != "int4" or "minimum" in tensors:
        return meta, tensors
    num_outputs, num_inputs = meta["shape"]
    shape = (num_outputs, num_inputs)
    packed = native.BitmaskMatrix(shape, "int4", group_size=meta["group_size"], **tensors)
    strips, quads = tensors["mask"].shape
    codes4 = torch.empty((strips, quads // 2, 64), dtype=torch.uint8)
    packed.expand(codes4.data_ptr())
    dense: dict[str, Any] = {
        "format": "integer",
        "shape": list(shape),
        "bits": 4,
        "group_size": meta["group_size"],
        "symmetric": True,
        "masked": True,
    }
    return dense, {"codes4": codes4, "scale": tensors["scale"]}


def _residual_expanded(meta: Meta, tensors: Tensors) -> tuple[Meta, Tensors]:
    residual, parts = expanded(*low_rank_part(meta, tensors, "residual"))
    others: dict[str, Tensor] = {k: v for k, v in tensors.items() if not k.startswith("residual_")}
    return {**meta, "residual": residual}, others | {f"residual_{name}": part for name, part in parts.items()}
