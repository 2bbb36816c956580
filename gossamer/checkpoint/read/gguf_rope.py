"""Rotary positions of a GGUF file as transformers' `rope_parameters`."""

import math
from typing import Any

import numpy as np

from gossamer.checkpoint.read.gguf_header import GGUFFile
from gossamer.checkpoint.read.gguf_metadata import Metadata
from gossamer.errors import CheckpointError, UnsupportedModelError


def rope_parameters(metadata: Metadata) -> dict[str, Any]:
    """Return the settings of the rotary positions; UnsupportedModelError for those that cannot be told."""
    theta = metadata.get("rope.freq_base", float, 10_000.0)
    scaling = _scaling(metadata, theta)
    if "rope_freqs.weight" not in metadata.file.tensors or metadata.architecture != "llama":
        return scaling
    by_tensor = _llama3_rope(metadata.file, theta)
    if "default" not in (scaling["rope_type"], by_tensor["rope_type"]):
        raise UnsupportedModelError(
            f"{metadata.file.path}, key '{metadata.architecture}.rope.scaling.type': expected scaling by this key or "
            "by the tensor 'rope_freqs.weight', got both. This variant is not handled."
        )
    return by_tensor if scaling["rope_type"] == "default" else scaling


def _scaling(metadata: Metadata, theta: float) -> dict[str, Any]:
    """As llama.cpp: linear where no type is named, and no scaling at a factor of 0 or 1."""
    kind = metadata.get("rope.scaling.type", str, "linear")
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedModelError(
            f"{metadata.file.path}, key '{metadata.architecture}.rope.scaling.type': expected none, linear or yarn, "
            f"got {kind!r:.40}, which is not handled."
        )
    name = "rope.scaling.factor" if metadata.has("rope.scaling.factor") else "rope.scale_linear"
    factor = metadata.get(name, float, 0.0) or 1.0
    attention = metadata.get("rope.scaling.attn_factor", float, 1.0) or 1.0
    if factor <= 0 or (attention != 1.0 and (kind != "yarn" or factor <= 1.0)):
        raise UnsupportedModelError(
            f"{metadata.file.path}, keys '{metadata.architecture}.rope.scaling.*': expected a positive factor, and an "
            f"attn_factor with yarn only, got {kind} with factor {factor} and attn_factor {attention}."
        )
    if kind == "none" or factor == 1.0:
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    context = metadata.get("context_length", int)
    settings = {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": metadata.get(
            "rope.scaling.original_context_length", int, context
        ),
    }
    if attention != 1.0:
        settings["attention_factor"] = attention * (1.0 + 0.1 * math.log(factor))
    return settings


def _llama3_rope(file: GGUFFile, theta: float) -> dict[str, Any]:
    """Llama 3.1 files hold divisors of the frequencies, not the settings they come from: find these again."""
    tensor = file.tensors["rope_freqs.weight"]
    if tensor.type_name != "F32" or len(tensor.shape) != 1:
        raise CheckpointError(f"{file.path}, tensor 'rope_freqs.weight': expected a float32 vector.")
    found = file.raw("rope_freqs.weight").view(np.float32)
    if np.all(found == 1.0):
        return {"rope_type": "default", "rope_theta": theta}
    factor, low, high, original = float(found.max()), 1.0, 4.0, 8192
    wavelength = 2 * np.pi * theta ** (np.arange(0, found.size) / found.size)
    smooth = (original / wavelength - low) / (high - low)
    middle = 1 / ((1 - smooth) / factor + smooth)
    expected = np.where(
        wavelength < original / high, 1.0, np.where(wavelength > original / low, factor, middle)
    )
    if not np.allclose(found, expected, rtol=1e-4):
        raise UnsupportedModelError(
            f"{file.path}, tensor 'rope_freqs.weight': expected the rotary frequencies of Llama 3.1 "
            "(original length "
            "8192), got others, which a transformers config cannot express."
        )
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
