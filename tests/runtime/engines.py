"""What the tests of the engine share: tiny models as folders, and the same models in transformers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossamer.runtime.engine import Engine
from tests.models import save_tiny

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 7},
    "qwen2": {},
    "qwen3": {},
    "gemma3": {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {},
}
"""Kind of a tiny model -> what makes its peculiarities matter within a short text."""
LENGTH = 75


def text_ids(length: int = LENGTH, seed: int = 0) -> Tensor:
    """Return random ids_T."""
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed))


def exact(folder: Path, **settings: Any) -> Engine:
    """Return an engine with float activations and one thread, unless told otherwise."""
    return Engine.open(folder, **{"activations": "float", "threads": 1, **settings})


def save_family(kind: str, folder: Path, **changes: Any) -> Tensor:
    """Write a tiny model; return the logits_TV that transformers gives for `text_ids()`."""
    model = save_tiny(kind, folder, **{**FAMILIES[kind], **changes})
    with torch.inference_mode():
        logits_TV: Tensor = model(text_ids()[None]).logits[0]
    return logits_TV


def error(got: Tensor, expected: Tensor) -> float:
    """Return the size of the difference, relative to what is expected (both as Euclidean norms)."""
    return float((got - expected).norm() / expected.norm())
