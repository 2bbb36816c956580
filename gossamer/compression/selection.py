"""Which steps of a recipe are meant for which matrix of a model, and the mistakes that show before any work is done.

Nothing is read but names and shapes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gossamer.checkpoint.source import Source
from gossamer.checkpoint.untouched import untouched
from gossamer.errors import RecipeError, UsageError
from gossamer.methods.gptq import GPTQ
from gossamer.methods.solve.grid import Grid
from gossamer.methods.solve.target import PruneTarget
from gossamer.recipe.recipe import EMBEDDINGS, HEAD, Recipe, Step
from gossamer.recipe.table import METHODS

Steps = tuple[Step, ...]


@dataclass(frozen=True)
class Selection:
    """Which steps are meant for which matrix, by name."""

    linears: dict[str, Steps]
    embedding: Steps
    head: Steps
    """Empty when the head is tied: it follows the embedding."""


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


def all_steps(source: Source, selection: Selection) -> Iterator[tuple[str, Steps]]:
    parts = source.architecture
    yield from selection.linears.items()
    if selection.embedding and parts.token_embedding is not None:
        yield parts.token_embedding, selection.embedding
    if selection.head and parts.output_head is not None:
        yield parts.output_head, selection.head


def shapes_of(source: Source) -> dict[str, tuple[int, int]]:
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
                f"has none. Use rtn for embeddings."
            )
        if not isinstance(step.settings, Grid):
            raise RecipeError(
                f"{source.architecture.token_embedding}: {step.method} prunes, but embeddings are looked up row by row "
                f"and are only ever quantized. Use rtn."
            )
    shapes = shapes_of(source)
    for name, steps in all_steps(source, selection):
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
