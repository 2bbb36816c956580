"""Load any model, dense or compressed, ready to run on this machine's CPU."""

from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gossamer.checkpoint.manifest import MANIFEST_NAME, read_manifest
from gossamer.checkpoint.source import Source, open_model
from gossamer.errors import UsageError
from gossamer.kernels.table import ACTIVATIONS
from gossamer.layers.replace import sparse_linears


class Loaded(NamedTuple):
    """A model in eval mode, and its tokenizer (None if it has none)."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None


def load(path: str | Path, *, dtype: torch.dtype | None = None, activations: str = "float") -> Loaded:
    """Load a compressed folder, a safetensors folder, a GGUF file or a hub id.

    Args:
        path: what to load.
        dtype: in which type a dense model computes; None: float32 for a compressed or GGUF model, else as stored.
        activations: "float" (exact) or "int8" (inputs of packed integer linears are rounded: faster).

    Raises:
        CheckpointError: it cannot be read. UsageError: `activations` is neither.
    """
    return load_opened(open_model(path), dtype=dtype, activations=activations)


def load_opened(source: Source, *, dtype: torch.dtype | None = None, activations: str = "float") -> Loaded:
    """Load a model that `open_model` has opened; as `load`."""
    if activations not in ACTIVATIONS:
        raise UsageError(f"activations: expected {' or '.join(ACTIVATIONS)}, got '{activations}'.")
    if source.kind == "gossamer":
        if (source.path / MANIFEST_NAME).exists():
            read_manifest(
                source.path
            )  # a damaged one is better found now than when figures are to be kept in it
        model = source.model if dtype is None else source.model.to(dtype)
        for linear in sparse_linears(model).values():
            linear.activations = activations
        return Loaded(model, source.tokenizer())
    stored = next(source.model.parameters()).dtype if source.kind == "safetensors" else torch.float32
    return Loaded(source.load_dense(dtype or stored), source.tokenizer())
