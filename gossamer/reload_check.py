"""The check at the end of a run: the written folder, loaded as a user loads it, gives what was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gossamer.checkpoint.quiet import quiet
from gossamer.errors import RunError

RELOAD_TOLERANCE = 1e-3
"""Largest difference of outputs after loading, relative to the largest output (at least 1)."""


def reload_difference(
    folder: Path, model_class: type[PreTrainedModel], batch: Mapping[str, Tensor], measured: Tensor
) -> float:
    """Load the folder; return the largest difference of its outputs for `batch` to those measured.

    Raises RunError if the difference is more than rounding can explain.
    """
    with quiet():
        loaded = model_class.from_pretrained(folder)
    with torch.inference_mode():
        outputs = first_tensor(loaded(**batch)).float()
    difference = float((outputs - measured).abs().max())
    if not difference <= RELOAD_TOLERANCE * max(1.0, float(measured.abs().max())):
        raise RunError(
            f"the written folder gives other outputs than were measured at compression (by {difference:.2e}). "
            f"Nothing has been written. This is a defect of Gossamer: please report it."
        )
    return difference


def first_tensor(outputs: Any) -> Tensor:
    """The main output of a model: logits, or the last hidden state of a bare encoder."""
    value = outputs.logits if hasattr(outputs, "logits") else outputs[0]
    assert isinstance(value, Tensor)
    return value
