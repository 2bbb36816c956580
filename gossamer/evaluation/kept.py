"""A dense model that several others are compared with: its blocks run once for each window of text."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from gossamer.calibration.observe import BlockOutput, forward_replaced
from gossamer.checkpoint.architecture import describe
from gossamer.checkpoint.loading import load


class KeptModel:
    """A decoder or an encoder in float32 whose last block's outputs are kept for every window: a later call with
    windows that it has seen runs what lies around the blocks, and gives the very same outputs.

    Memory: the model, and tokens x hidden size x 4 bytes.
    """

    def __init__(self, path: str | Path, most_bytes: int | None = None) -> None:
        """`most_bytes`: of what is kept; later windows are then run each time. CheckpointError: it cannot be read."""
        self.path, self._room = path, math.inf if most_bytes is None else most_bytes
        self.model = load(path, dtype=torch.float32).model
        self.config, self.device, self.dtype = self.model.config, self.model.device, self.model.dtype
        self._blocks = [self.model.get_submodule(name) for name in describe(self.model).stacks[-1]]
        self._kept: dict[bytes, BlockOutput] = {}
        """By the tokens of a window: what the last block returned for it, a batch of one."""

    def __call__(self, ids_BL: Tensor, use_cache: bool = False) -> Any:
        """Return what the model does: an object with `logits`."""
        keys = [ids_L.cpu().numpy().tobytes() for ids_L in ids_BL]
        with ExitStack() as stack:
            if all(key in self._kept for key in keys):
                whole = _joined([self._kept[key] for key in keys])
                for block in self._blocks:
                    stack.enter_context(forward_replaced(block, partial(_given, whole)))
            else:
                keep = partial(self._keep, keys)
                stack.callback(self._blocks[-1].register_forward_hook(keep).remove)
            return self.model(ids_BL, use_cache=False) if self.model.can_generate() else self.model(ids_BL)

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Those of the model."""
        return self.model.named_modules()

    def _keep(self, keys: Sequence[bytes], _block: nn.Module, _args: object, output: BlockOutput) -> None:
        for row, key in enumerate(keys):
            part = tree_map_only(Tensor, lambda tensor, row=row: tensor[row : row + 1].clone(), output)
            size_bytes = sum(each.nbytes for each in tree_leaves(part) if isinstance(each, Tensor))
            if key not in self._kept and size_bytes <= self._room:
                self._kept[key] = part
                self._room -= size_bytes


def _joined(parts: Sequence[BlockOutput]) -> BlockOutput:
    """Return what a block returns for several windows at once."""
    leaves, structure = tree_flatten(parts[0])
    columns = zip(*(tree_leaves(part) for part in parts), strict=True)
    whole = [
        torch.cat(column) if isinstance(leaf, Tensor) else leaf
        for leaf, column in zip(leaves, columns, strict=True)
    ]
    joined: BlockOutput = tree_unflatten(whole, structure)
    return joined


def _given(value: BlockOutput, *_args: object, **_kwargs: object) -> BlockOutput:
    return value
