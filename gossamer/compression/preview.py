"""What a run of a recipe on one model would do and take: bytes, memory, disk.

Nothing is read but names, shapes and types. selection.py matches recipe and model; formats/choose.py knows what a
matrix will take.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch

from gossamer.calibration.gradients import probe_tokens
from gossamer.calibration.pairs import SEEN_BYTES
from gossamer.calibration.replay import KEPT_BYTES
from gossamer.calibration.statistics import Gram
from gossamer.checkpoint.source import Source
from gossamer.checkpoint.untouched import Untouched, untouched
from gossamer.checkpoint.write.writer import SHARD_BYTES
from gossamer.compression.selection import (
    Steps,
    all_steps,
    head_is_tied,
    pruned_share,
    select,
    shapes_of,
)
from gossamer.formats.choose import predict_bytes
from gossamer.methods.allocate.saliency import MOST_BITS
from gossamer.methods.gptq import GPTQ
from gossamer.methods.solve.grid import Grid
from gossamer.methods.solve.low_rank import LowRankTarget
from gossamer.methods.solve.pattern import NM, Block
from gossamer.methods.solve.target import PruneTarget
from gossamer.recipe.recipe import Recipe
from gossamer.recipe.table import METHODS

WORKING_COPIES = 6
"""Copies of the largest block in float32 that a run holds at most: the block, updated weights, codes, Gram matrices."""
BASE_BYTES = 400_000_000
"""Of the libraries and what opening a model takes."""
SCATTERED_BYTES = 300_000_000
"""What the allocator keeps between the batches of calibration text: without it all 23 runs of
docs/benchmarks/quality.json that read text took 6 to 56 % more than foretold; with it 8 % less to 22 % more."""


@dataclass(frozen=True)
class Preview:
    """What a run would do, and what it would take; nothing has been written."""

    model: str
    recipe: Recipe
    layers: dict[str, Steps]
    num_linears: int
    untouched: Untouched
    """What stays dense in the blocks because it is no linear."""
    parent_bf16_bytes: int
    predicted_bytes: int
    memory_bytes: int
    disk_bytes: int
    """Beside the target while it runs: the result, a shard that is joined, and the state after a block, twice."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "recipe": self.recipe.to_dict(),
            "layers": {name: [step.to_dict() for step in steps] for name, steps in self.layers.items()},
            "num_linears": self.num_linears,
            "untouched": self.untouched.to_dict(),
            "notes": self.untouched.notes,
            "parent_bf16_bytes": self.parent_bf16_bytes,
            "predicted_bytes": self.predicted_bytes,
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
        }


def preview_of(source: Source, recipe: Recipe, layers: str | None = None) -> Preview:
    """Return what compressing `source` by `recipe` would do; sizes are predicted, not measured."""
    selection = select(source, recipe, layers)
    chosen = dict(all_steps(source, selection))
    if len(source.architecture.stacks) > 1:  # where nothing is shared out
        chosen = {name: _without_average(steps) for name, steps in chosen.items()}
    shapes = shapes_of(source)
    dtypes = stored_dtypes(source)
    matrices = source.architecture.matrices
    touched = {matrices[name].parameter for name in chosen}
    kept = sum(
        parameter.numel() * dtypes[name].itemsize
        for name, parameter in source.reader.skeleton.named_parameters()
        if name not in touched
    )
    packed = sum(
        predicted_bytes(shapes[name], steps, dtypes[matrices[name].parameter])
        for name, steps in chosen.items()
    )
    return Preview(
        model=str(source.path),
        recipe=recipe,
        layers=chosen,
        num_linears=len(source.architecture.all_linears),
        untouched=untouched(source.architecture),
        parent_bf16_bytes=2 * source.num_parameters,
        predicted_bytes=packed + kept,
        memory_bytes=_memory_bytes(source, recipe, shapes),
        disk_bytes=packed + kept + min(packed + kept, SHARD_BYTES) + 2 * _state_bytes(source, recipe),
    )


def stored_dtypes(source: Source) -> dict[str, torch.dtype]:
    """The type in which each tensor is written if it is not packed: the parent's; bf16 for a GGUF's matrices."""
    if source.kind == "gguf":
        return {
            name: torch.bfloat16 if tensor.ndim > 1 else torch.float32
            for name, tensor in source.reader.skeleton.state_dict().items()
        }
    return {name: tensor.dtype for name, tensor in source.model.state_dict().items()}


def predicted_bytes(shape: tuple[int, int], steps: Steps, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes that a matrix will take: those of the smallest format that can hold what the steps make of it.

    `dtype` is that of values which are not quantized. What an absolute threshold removes cannot be known before.
    """
    mixed = next((step.settings for step in steps if isinstance(step.settings, GPTQ)), None)
    if mixed is None or mixed.average_bits is None:
        return _bytes_of(shape, steps, dtype, None)
    low, high = (_bytes_of(shape, steps, dtype, bits) for bits in (mixed.bits, MOST_BITS))  # on average
    return round(low + (high - low) * (mixed.average_bits - mixed.bits) / (MOST_BITS - mixed.bits))


def _bytes_of(shape: tuple[int, int], steps: Steps, dtype: torch.dtype, bits: int | None) -> int:
    """The same with so many bits for all of its codes; None: those that the steps begin with."""
    targets = [step.settings for step in steps if isinstance(step.settings, PruneTarget)]
    ranks = [s.settings.rank_for(*shape) for s in steps if isinstance(s.settings, LowRankTarget)]
    grid = next((step.settings for step in steps if isinstance(step.settings, Grid)), None)
    codes = None
    if grid is not None:
        size = grid.size_for(shape[1])
        codes = {"bits": bits or grid.bits, "group_size": size, "symmetric": grid.symmetric}
    pattern = targets[-1].pattern if targets else None
    return predict_bytes(
        shape,
        dtype,
        codes=codes,
        kept=1.0 - pruned_share(steps),
        # with one threshold for all, rows differ, and few layers keep to windows
        window=(pattern.n, pattern.m) if isinstance(pattern, NM) and targets[-1].scope == "layer" else None,
        block=(pattern.rows, pattern.cols) if isinstance(pattern, Block) else None,
        rank=ranks[-1] if ranks else None,
        factors_only=any(METHODS[step.method].replaces for step in steps),
    )


def _without_average(steps: Steps) -> Steps:
    """The steps with the bits that they begin with for all."""
    return tuple(
        replace(step, settings=step.settings.model_copy(update={"average_bits": None}))
        if isinstance(step.settings, GPTQ)
        else step
        for step in steps
    )


def _state_bytes(source: Source, recipe: Recipe) -> int:
    """What the last block returned, in float32, in the compressed model and in the dense one."""
    if not any(step.needs_text for step in recipe.steps):
        return 0
    tokens = recipe.calibration.samples * recipe.calibration.length
    return 2 * 4 * tokens * int(source.config.get_text_config().hidden_size)


def _memory_bytes(source: Source, recipe: Recipe, shapes: dict[str, tuple[int, int]]) -> int:
    parts = source.architecture
    largest = max(sum(shapes[n][0] * shapes[n][1] for n in parts.linears(block)) for block in parts.blocks)
    outside = sum(rows * columns for name, (rows, columns) in shapes.items() if name == parts.token_embedding)
    if parts.output_head is not None and not head_is_tied(source):
        outside *= 2
    config = source.config.get_text_config()
    tokens = recipe.calibration.samples * recipe.calibration.length
    hidden = tokens * config.hidden_size
    vocabulary = min(tokens, 2048) * config.vocab_size
    blocks = WORKING_COPIES * largest + max(
        sum(map(prod, parts.block_others[block].values()))
        + sum(parts.matrix(name).numel for name in parts.block_experts[block])
        for block in parts.blocks
    )
    if any(step.shares_sparsity or step.shares_bits for step in recipe.steps):
        probe = (
            probe_tokens(tokens, len(parts.blocks), config.hidden_size)
            * len(parts.blocks)
            * config.hidden_size
        )
        blocks = max(blocks, probe)
    if recipe.calibration.align and any(step.needs is Gram for step in recipe.steps):
        inputs, outputs = (
            max(sum(shapes[name][side] for name in parts.linears(block)) for block in parts.blocks)
            for side in (1, 0)
        )
        blocks += min(tokens * inputs, SEEN_BYTES // 4) + min(tokens * outputs, KEPT_BYTES // 4)
    scattered = SCATTERED_BYTES if any(step.needs_text for step in recipe.steps) else 0
    return 4 * (blocks + outside + 2 * hidden + vocabulary) + BASE_BYTES + scattered
