"""The check at the end of a run: the written folder, loaded as a user loads it, gives what was measured."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gossamer.calibration.observe import main_output
from gossamer.checkpoint.read.mapped import give_back_pages
from gossamer.checkpoint.read.quiet import quiet
from gossamer.checkpoint.read.skeleton import sketched
from gossamer.errors import RunError

RELOAD_TOLERANCE = 1e-3
"""Largest difference of outputs after loading, relative to the largest output (at least 1)."""


def reload_difference(
    folder: Path,
    model_class: type[PreTrainedModel],
    blocks: Iterable[str],
    batch: Mapping[str, Tensor],
    measured: Tensor,
    dtype: torch.dtype | None = None,
) -> float:
    """Load the folder; return the largest difference of its outputs for `batch` to those measured.

    A dense folder is computed with in `dtype`; a compressed one as it says itself. The weights stay mapped, and each
    block gives its pages back once it has run: one of them is in memory.

    Raises RunError if the difference is more than rounding can explain.
    """
    with quiet(), sketched(model_class):
        loaded = model_class.from_pretrained(folder, **({} if dtype is None else {"dtype": dtype}))
    for name in blocks:
        loaded.get_submodule(name).register_forward_hook(_give_back)
    give_back_pages((*loaded.parameters(), *loaded.buffers()))
    with torch.inference_mode():
        outputs = main_output(loaded(**batch)).float()
    difference = float((outputs - measured).abs().max())
    if not difference <= RELOAD_TOLERANCE * max(1.0, float(measured.abs().max())):
        raise RunError(
            f"the written folder gives other outputs than were measured at compression (by {difference:.2e}). "
            f"Nothing has been written. This is a defect of Gossamer: please report it."
        )
    return difference


def _give_back(block: nn.Module, *_: object) -> None:
    give_back_pages((*block.parameters(), *block.buffers()))
