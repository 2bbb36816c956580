"""Where the blocks, linears, embeddings, norms and heads of a model are, found by structure.

Nothing here knows a model by its name. A *stack* is a `ModuleList` of modules of one class, outside every
other stack, whose children contain linears that read and write a common width (hidden -> hidden). A *block*
is a child of a stack. Lists inside blocks (the experts of a layer, the sublayers of T5) are therefore never
stacks. Works on the meta device: only shapes are read.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gossamer.errors import UnsupportedModelError

LINEAR_TYPES = (nn.Linear, Conv1D)


@dataclass(frozen=True, slots=True)
class Architecture:
    """The parts of one model, as module names in the order in which they run."""

    model_class: str
    model_type: str
    stacks: tuple[tuple[str, ...], ...]
    """Names of blocks: one stack for a decoder or an encoder, two (encoder, decoder) for T5 or Whisper."""
    block_linears: dict[str, tuple[str, ...]]
    """Block name -> full names of the linears in it."""
    other_linears: tuple[str, ...]
    """Linears outside every block that are not the output head: poolers, projections, classifiers."""
    embeddings: tuple[str, ...]
    """`nn.Embedding`s outside the blocks: tokens, positions, token types."""
    token_embedding: str | None
    output_head: str | None
    """The linear that makes logits; None for a bare encoder."""
    tied: tuple[tuple[str, str], ...]
    """Pairs of parameter names (copy, original) that are one tensor."""
    norms: tuple[str, ...]

    @property
    def blocks(self) -> tuple[str, ...]:
        """All block names, stack after stack."""
        return tuple(name for stack in self.stacks for name in stack)

    def linears(self, block: str) -> tuple[str, ...]:
        """Return the full names of the linears of one block; KeyError for a name that is no block."""
        return self.block_linears[block]

    @property
    def all_linears(self) -> tuple[str, ...]:
        """Every linear: those of the blocks, then the others, then the output head."""
        inside = tuple(name for block in self.blocks for name in self.block_linears[block])
        head = (self.output_head,) if self.output_head is not None else ()
        return inside + self.other_linears + head


def describe(model: PreTrainedModel) -> Architecture:
    """Return the architecture of `model`, which may be on the meta device.

    Raises UnsupportedModelError when it has no repeated blocks with linears in them.
    """
    stacks = tuple(_find_stacks(model, ""))
    if not stacks:
        raise UnsupportedModelError(
            f"{type(model).__name__}: expected at least one ModuleList of equal blocks that contain linear "
            "layers, "
            "found none. Gossamer compresses block by block and cannot handle this architecture."
        )
    blocks = tuple(name for stack in stacks for name in stack)
    block_linears = {name: tuple(_linear_names(model.get_submodule(name), name)) for name in blocks}
    inside = tuple(name + "." for name in blocks)
    outside = [(name, module) for name, module in model.named_modules() if not name.startswith(inside)]
    names = {id(module): name for name, module in model.named_modules()}
    head = _name_of(model.get_output_embeddings(), names)
    return Architecture(
        model_class=type(model).__name__,
        model_type=model.config.model_type,
        stacks=stacks,
        block_linears=block_linears,
        other_linears=tuple(n for n, m in outside if isinstance(m, LINEAR_TYPES) and n != head),
        embeddings=tuple(name for name, module in outside if isinstance(module, nn.Embedding)),
        token_embedding=_name_of(_input_embedding(model), names),
        output_head=head,
        tied=tied_parameters(model),
        norms=tuple(name for name, module in model.named_modules() if is_norm(module)),
    )


def tied_parameters(model: PreTrainedModel) -> tuple[tuple[str, str], ...]:
    """Return pairs (copy, original) of parameter names that are one tensor in `model`, whatever its class declares."""
    declared = getattr(model, "all_tied_weights_keys", None) or {}
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    pairs: list[tuple[str, str]] = []
    for group in names.values():
        original = next((declared[name] for name in group if declared.get(name) in group), group[0])
        pairs += [(name, original) for name in group if name != original]
    return tuple(sorted(pairs))


def is_norm(module: nn.Module) -> bool:
    """Tell whether `module` is a leaf that scales by a vector: LayerNorm, RMSNorm and their kin."""
    weight = getattr(module, "weight", None)
    leaf = next(module.children(), None) is None
    return leaf and "norm" in type(module).__name__.lower() and weight is not None and weight.ndim == 1


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """Return (O, I) of a linear; `Conv1D` stores its weight transposed, [I, O]."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def _find_stacks(module: nn.Module, prefix: str) -> Iterator[tuple[str, ...]]:
    """Walk the tree in registration order; do not look inside what has been found."""
    for name, child in module.named_children():
        if _is_stack(child):
            yield tuple(f"{prefix}{name}.{index}" for index, _ in child.named_children())
        else:
            yield from _find_stacks(child, f"{prefix}{name}.")


def _is_stack(module: nn.Module) -> bool:
    if not isinstance(module, nn.ModuleList) or len(module) == 0:
        return False
    if len({type(child) for child in module.children()}) != 1 or isinstance(module[0], LINEAR_TYPES):
        return False
    return all(_keeps_a_width(child) for child in module.children())


def _keeps_a_width(block: nn.Module) -> bool:
    shapes = [linear_shape(m) for m in block.modules() if isinstance(m, LINEAR_TYPES)]
    outputs, inputs = {o for o, _ in shapes}, {i for _, i in shapes}
    return bool(outputs & inputs)


def _linear_names(block: nn.Module, prefix: str) -> Iterator[str]:
    for name, module in block.named_modules():
        if isinstance(module, LINEAR_TYPES):
            yield f"{prefix}.{name}"


def _input_embedding(model: PreTrainedModel) -> nn.Module | None:
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def _name_of(module: nn.Module | None, names: dict[int, str]) -> str | None:
    return None if module is None else names.get(id(module))
