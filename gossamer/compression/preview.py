"""What a recipe means for one model: which steps for which matrix, and what the run would take.

Nothing is read but names, shapes and types, so that mistakes are found before any work is done.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch

from gossamer.calibration.gradients import probe_tokens
from gossamer.calibration.pairs import SEEN_BYTES
from gossamer.calibration.statistics import Gram
from gossamer.checkpoint.source import Source
from gossamer.checkpoint.untouched import Untouched, untouched
from gossamer.checkpoint.write.writer import SHARD_BYTES
from gossamer.errors import RecipeError, UsageError
from gossamer.formats.bitmask import integer_values
from gossamer.formats.block import BlockWeight
from gossamer.formats.choose import BLOCK_SHAPES
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.nm import KEEP_CHOICES
from gossamer.formats.packed import expected_bytes
from gossamer.formats.stored import dtype_name
from gossamer.methods.allocate.saliency import MOST_BITS
from gossamer.methods.gptq import GPTQ
from gossamer.methods.solve.grid import Grid
from gossamer.methods.solve.low_rank import LowRankTarget
from gossamer.methods.solve.pattern import NM, Block
from gossamer.methods.solve.target import PruneTarget
from gossamer.recipe.recipe import EMBEDDINGS, HEAD, Recipe, Step
from gossamer.recipe.table import METHODS

Steps = tuple[Step, ...]
WORKING_COPIES = 6
"""Copies of the largest block in float32 that a run holds at most: the block, updated weights, codes, Gram matrices."""
BASE_BYTES = 400_000_000
"""Of the libraries and what opening a model takes."""
SCATTERED_BYTES = 300_000_000
"""What the allocator keeps between the batches of calibration text: without it all 23 runs of
docs/benchmarks/quality.json that read text took 6 to 56 % more than foretold; with it 8 % less to 22 % more."""


@dataclass(frozen=True)
class Selection:
    """Which steps are meant for which matrix, by name."""

    linears: dict[str, Steps]
    embedding: Steps
    head: Steps
    """Empty when the head is tied: it follows the embedding."""


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
    chosen = dict(_all_steps(source, selection))
    if len(source.architecture.stacks) > 1:  # where nothing is shared out
        chosen = {name: _with_bits(steps) for name, steps in chosen.items()}
    shapes = _shapes(source)
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


def select(source: Source, recipe: Recipe, layers: str | None = None) -> Selection:
    """Match the recipe with the model's names; `layers` is a glob that narrows it further.

    Raises:
        UsageError: the model is compressed already.
        RecipeError: nothing matches, an embedding is given a method that needs inputs, or a group does not divide.
    """
    if source.kind == "gossamer":
        raise UsageError(f"{source.path} is compressed already. Give the dense parent instead.")
    parts = source.architecture
    inside = [name for block in parts.blocks for name in parts.linears(block)]
    embedding, head = parts.token_embedding, parts.output_head
    for_embedding = recipe.select([embedding], EMBEDDINGS).get(embedding, ()) if embedding else ()
    for_head = recipe.select([head], HEAD).get(head, ()) if head else ()
    if head_is_tied(source):
        for_embedding, for_head = for_embedding or for_head, ()
    wanted = layers or "*"
    selection = Selection(
        {name: steps for name, steps in recipe.select(inside).items() if fnmatchcase(name, wanted)},
        for_embedding if embedding and fnmatchcase(embedding, wanted) else (),
        for_head if head and fnmatchcase(head, wanted) else (),
    )
    if not any((selection.linears, selection.embedding, selection.head)):
        narrowed = f" and --layers '{layers}'" if layers else ""
        raise RecipeError(
            f"no layer of {source.path} matches the recipe{narrowed}. Its linears are named like '{inside[0]}'. "
            + " ".join(untouched(parts).notes)
        )
    _check(source, selection)
    return selection


def head_is_tied(source: Source) -> bool:
    """True if the output head and the token embedding are one matrix."""
    parts = source.architecture
    wanted = {f"{parts.token_embedding}.weight", f"{parts.output_head}.weight"}
    sources = dict(parts.tied)
    head, embedding = f"{parts.output_head}.weight", f"{parts.token_embedding}.weight"
    return wanted in map(set, parts.tied) or (head in sources and sources[head] == sources.get(embedding))


def _all_steps(source: Source, selection: Selection) -> Iterator[tuple[str, Steps]]:
    parts = source.architecture
    yield from selection.linears.items()
    if selection.embedding and parts.token_embedding is not None:
        yield parts.token_embedding, selection.embedding
    if selection.head and parts.output_head is not None:
        yield parts.output_head, selection.head


def _shapes(source: Source) -> dict[str, tuple[int, int]]:
    """(O, I) of every linear and of the token embedding."""
    parts = source.architecture
    embedding = () if parts.token_embedding is None else (parts.token_embedding,)
    return {name: parts.matrix(name).shape for name in (*parts.all_linears, *embedding)}


def _check(source: Source, selection: Selection) -> None:
    for step in (*selection.embedding, *selection.head):
        if step.trains:
            raise RecipeError(
                f"{step.method} trains blocks, not the embeddings or the head: narrow its `layers`."
            )
    for step in selection.head:
        if step.settings.is_global or step.shares_bits:
            raise RecipeError(
                f"{source.architecture.output_head}: scope global and average_bits share out among the linears of "
                "blocks. Give the head a step of its own."
            )
    for step in selection.embedding:
        if step.needs is not None:
            raise RecipeError(
                f"{source.architecture.token_embedding}: {step.method} needs the inputs of a linear, and an embedding "
                f"has none. Use rtn, magnitude or threshold for embeddings."
            )
        if not isinstance(step.settings, Grid):
            raise RecipeError(
                f"{source.architecture.token_embedding}: {step.method} prunes, but embeddings are looked up row by row "
                f"and are only ever quantized. Use rtn."
            )
    shapes = _shapes(source)
    for name, steps in _all_steps(source, selection):
        for step in steps:
            if isinstance(step.settings, Grid):
                try:
                    step.settings.size_for(shapes[name][1])
                except RecipeError as error:
                    raise RecipeError(f"{name}, step {step.method}: {error}") from error
        _check_order(name, steps)
        _check_average(name, steps)
        if any(step.settings.is_global for step in steps[1:]):
            raise RecipeError(f"{name}: a step with scope global must be the first one of its layers.")


def _check_average(name: str, steps: Steps) -> None:
    """Raise RecipeError where `average_bits` could not be shared out over what the steps before leave."""
    for number, step in enumerate(steps):
        if not isinstance(step.settings, GPTQ) or step.settings.average_bits is None:
            continue
        before = steps[:number]
        by_weight = [each.settings for each in before if each.prunes_by_weight]
        if any(each.is_global or not isinstance(each, PruneTarget) for each in by_weight):
            raise RecipeError(
                f"{name}: average_bits has to know before the run what each layer keeps, which one threshold for all "
                "does not say. Prune by a `sparsity` in each layer, or by a method that is shown text."
            )
        if pruned_share(before) > 0.0 and step.settings.bits != 4:
            raise RecipeError(
                f"{name}: on a mask values are stored in 4 or 8 bits, which average_bits chooses between: bits 4 was "
                f"expected, not {step.settings.bits}."
            )


def pruned_share(steps: Steps) -> float:
    """Return the share of a layer's weights that the steps are to prune; a threshold's is not known before."""
    return max((each.settings.share for each in steps if isinstance(each.settings, PruneTarget)), default=0.0)


def _check_order(name: str, steps: Steps) -> None:
    """Raise RecipeError where a step would undo another, or could not be applied after it."""
    given = f"{name}: it is given the steps {', '.join(step.method for step in steps)}."
    methods = [METHODS[step.method] for step in steps]
    corrects = [method.corrects for method in methods]
    if True in corrects[:-1]:
        raise RecipeError(f"{given} eora gives back what all others have taken: it comes last, and once.")
    quantizes = [method.quantizes for method in methods if not method.corrects]
    if True in quantizes[:-1]:
        raise RecipeError(
            f"{given} Only the last one may quantize (but for eora): prune first, and quantize once."
        )
    if any(method.replaces for method in methods) and sum(not method.trains for method in methods) > 1:
        raise RecipeError(f"{given} svd leaves no weight for another step: give it alone, or use basil.")


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
    grid = next((step.settings for step in steps if isinstance(step.settings, GPTQ)), None)
    if grid is None or grid.average_bits is None:
        return min(expected_bytes(declared) for declared in _possible_forms(shape, steps, dtype))
    low, high = (  # on average over all layers
        predicted_bytes(shape, _with_bits(steps, bits), dtype) for bits in (grid.bits, MOST_BITS)
    )
    return round(low + (high - low) * (grid.average_bits - grid.bits) / (MOST_BITS - grid.bits))


def _with_bits(steps: Steps, bits: int | None = None) -> Steps:
    """The steps with so many bits for all, or with those that they begin with."""
    return tuple(
        replace(
            step,
            settings=step.settings.model_copy(
                update={"bits": bits or step.settings.bits, "average_bits": None}
            ),
        )
        if isinstance(step.settings, GPTQ)
        else step
        for step in steps
    )


def _possible_forms(shape: tuple[int, int], steps: Steps, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """Declarations as formats/choose.py would make them; every mask is taken to hold what was asked for."""
    ranks = [s.settings.rank_for(*shape) for s in steps if isinstance(s.settings, LowRankTarget)]
    if not ranks:
        yield from _residual_forms(shape, steps, dtype)
    elif any(METHODS[step.method].replaces for step in steps):
        yield LowRankWeight.declare_factors(shape, ranks[-1], None)
    else:
        for residual in _residual_forms(shape, steps, dtype):
            yield LowRankWeight.declare_factors(shape, ranks[-1], residual)


def _residual_forms(shape: tuple[int, int], steps: Steps, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """The same without a low-rank part."""
    rows, columns = shape
    targets = [step.settings for step in steps if isinstance(step.settings, PruneTarget)]
    grid = next((step.settings for step in steps if isinstance(step.settings, Grid)), None)
    form: dict[str, Any] = {"shape": [rows, columns]}
    if grid is not None:
        form |= {"bits": grid.bits, "group_size": grid.size_for(columns), "symmetric": grid.symmetric}
    values = dtype_name(dtype) if grid is None else integer_values(grid.bits)
    share = pruned_share(steps)
    if share == 0.0:
        yield form | {"format": "dense" if grid is None else "integer", "values": values, "masked": False}
        return
    num_kept = round((1.0 - share) * rows * columns)
    num_values = num_kept if values != "int4" else -(-num_kept // 2)
    yield form | {"format": "bitmask", "values": values, "num_values": num_values}
    pattern = targets[-1].pattern
    if (
        isinstance(pattern, NM)
        and targets[-1].scope == "layer"  # else rows differ, and few layers fit
        and 16 % pattern.m == 0
        and values != "float32"
        and (grid is None or grid.symmetric)
    ):
        keep = 16 * pattern.n // pattern.m
        yield from (
            form | {"format": "nm", "keep": each, "values": values} for each in KEEP_CHOICES if each >= keep
        )
    if isinstance(pattern, Block) and grid is None:
        for height, width in BLOCK_SHAPES:
            if pattern.rows % height == 0 == pattern.cols % width:
                count = -(-num_kept // (height * width))
                yield BlockWeight.declare(shape, (height, width), count, dtype)


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
        inputs = max(sum(shapes[name][1] for name in parts.linears(block)) for block in parts.blocks)
        blocks += min(tokens * inputs, SEEN_BYTES // 4)
    scattered = SCATTERED_BYTES if any(step.needs_text for step in recipe.steps) else 0
    return 4 * (blocks + outside + 2 * hidden + vocabulary) + BASE_BYTES + scattered
