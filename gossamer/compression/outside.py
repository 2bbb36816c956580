"""What lies outside of the blocks: reading it, rounding what stays dense as it will be written, tying it again."""

from collections.abc import Collection

import torch
from torch import nn

from gossamer.checkpoint.architecture import Architecture
from gossamer.checkpoint.source import Source
from gossamer.compression.selection import Selection
from gossamer.errors import CheckpointError


def modules_outside_blocks(model: nn.Module, blocks: tuple[str, ...]) -> list[str]:
    """Names of the modules that hold parameters or buffers themselves and lie in no block."""
    inside = tuple(block + "." for block in blocks)
    return [
        name
        for name, module in model.named_modules()
        if name
        and name not in blocks
        and not name.startswith(inside)
        and (list(module.parameters(recurse=False)) or list(module.buffers(recurse=False)))
    ]


def prepare_outside(
    source: Source, selection: Selection, dtypes: dict[str, torch.dtype], device: torch.device
) -> None:
    """Read everything outside of the blocks into the model, with the values that will be read back.

    Raises CheckpointError for values that are not finite.
    """
    architecture = source.architecture
    chosen = {
        architecture.token_embedding: selection.embedding,
        architecture.output_head: selection.head,
    }
    packed = {f"{name}.weight" for name, steps in chosen.items() if steps}
    for name in modules_outside_blocks(source.model, architecture.blocks):
        source.model.set_submodule(name, source.materialise(name).to(device))
        round_as_written(source.model, name, dtypes, packed)
    tie(source.model, architecture)


def round_as_written(
    model: nn.Module, prefix: str, dtypes: dict[str, torch.dtype], packed: Collection[str]
) -> None:
    """Let the parameters of a module that stay dense have the values that will be read back.

    Raises CheckpointError for values that are not finite.
    """
    for key, parameter in model.get_submodule(prefix).named_parameters():
        name = f"{prefix}.{key}"
        if name not in packed:
            if not bool(torch.isfinite(parameter).all()):
                raise CheckpointError(
                    f"{name}: NaN or infinite values, which would be written as they are. The file is damaged."
                )
            parameter.data = parameter.data.to(dtypes[name]).float()


def tie(model: nn.Module, architecture: Architecture) -> None:
    """Make tied parameters outside of the blocks one tensor again, after one of them was replaced."""
    for copy, original in architecture.tied:
        copy_module, _, copy_name = copy.rpartition(".")
        module, _, name = original.rpartition(".")
        setattr(model.get_submodule(copy_module), copy_name, getattr(model.get_submodule(module), name))
