"""Where the blocks, weight matrices, embeddings, norms and heads of a model are, found by structure.

Nothing here knows a model by its name. A *stack* is a `ModuleList` of modules of one class, outside every
other stack, whose children contain linears that read and write a common width (hidden -> hidden). A *block*
is a child of a stack. Lists inside blocks (the experts of a layer, the sublayers of T5) are therefore never
stacks. Works on the meta device: only shapes are read.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from gossamer.checkpoint.matrix import LINEAR_TYPES, Matrix, expert_matrices, matrix_of
from gossamer.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Architecture:
    """The parts of one model, as module names in the order in which they run."""

    model_class: str
    model_type: str
    stacks: tuple[tuple[str, ...], ...]
    """Names of blocks: one stack for a decoder or an encoder, two (encoder, decoder) for T5 or Whisper."""
    block_linears: dict[str, tuple[str, ...]]
    """Block name -> full names of the linears in it."""
    block_experts: dict[str, tuple[str, ...]]
    """Block name -> names of the matrices of its fused experts; experts that are linears are among these."""
    block_others: dict[str, dict[str, tuple[int, ...]]]
    """Block name -> its other parameters of two and more dimensions with their shapes: no known matrix holds them."""
    matrices: dict[str, Matrix]
    """Handles of all linears, embeddings and experts by name."""
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

    def matrix(self, name: str) -> Matrix:
        """Return the handle of a weight matrix; UnsupportedModelError, with the name, for anything else."""
        if name not in self.matrices:
            raise UnsupportedModelError(
                f"{name}: expected a linear, an embedding or an expert of {self.model_class}, got none such. Which way "
                "round another parameter holds its weights is not known, so that it can only stay as it is."
            )
        return self.matrices[name]

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
    held = {name: _block_matrices(name, model.get_submodule(name)) for name in blocks}
    block_linears, block_experts = (
        {
            name: tuple(each.name for each in held[name] if (each.expert is not None) == fused)
            for name in blocks
        }
        for fused in (False, True)
    )
    inside = tuple(name + "." for name in blocks)
    outside = [(name, module) for name, module in model.named_modules() if not name.startswith(inside)]
    names = {id(module): name for name, module in model.named_modules()}
    head = _name_of(model.get_output_embeddings(), names)
    around = [
        found
        for name, module in model.named_modules(
            remove_duplicate=False
        )  # T5 has one embedding under three names
        if not name.startswith(inside) and (found := matrix_of(name, module)) is not None
    ]
    return Architecture(
        model_class=type(model).__name__,
        model_type=model.config.model_type,
        stacks=stacks,
        block_linears=block_linears,
        block_experts=block_experts,
        block_others={name: _others(name, model.get_submodule(name), held[name]) for name in blocks},
        matrices={each.name: each for each in (*around, *(each for name in blocks for each in held[name]))},
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
    linears = [matrix_of(name, m) for name, m in block.named_modules() if isinstance(m, LINEAR_TYPES)]
    shapes = [linear.shape for linear in linears if linear is not None]
    outputs, inputs = {o for o, _ in shapes}, {i for _, i in shapes}
    return bool(outputs & inputs)


def _block_matrices(block: str, module: nn.Module) -> list[Matrix]:
    """The linears and the fused experts of a block, in the order of its modules."""
    found: list[Matrix] = []
    for local, each in module.named_modules():
        name = f"{block}.{local}" if local else block
        if isinstance(each, LINEAR_TYPES) and (linear := matrix_of(name, each)) is not None:
            found.append(linear)
        found += expert_matrices(name, each)
    return found


def _others(block: str, module: nn.Module, matrices: list[Matrix]) -> dict[str, tuple[int, ...]]:
    """Parameters of a block that have two dimensions or more and belong to none of the matrices."""
    known = {matrix.parameter for matrix in matrices}
    parameters = ((f"{block}.{local}", each) for local, each in module.named_parameters())
    return {name: tuple(each.shape) for name, each in parameters if each.ndim > 1 and name not in known}


def _input_embedding(model: PreTrainedModel) -> nn.Module | None:
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def _name_of(module: nn.Module | None, names: dict[int, str]) -> str | None:
    return None if module is None else names.get(id(module))
