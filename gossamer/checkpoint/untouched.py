"""Which weights of a model's blocks no method can change yet, and what share of them that is.

Weights are the parameters of two dimensions and more. What is no linear stays dense: fused experts, and parameters
that no known matrix holds (routers, convolutions, tables of positions).
"""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from gossamer.checkpoint.architecture import Architecture

WORTH_SAYING = 0.001
"""Share of the weights of the blocks: tables of positions, such as T5's, take less."""


@dataclass(frozen=True, slots=True)
class Untouched:
    """What stays dense whatever the recipe says; all zero for a model whose blocks are made of linears alone."""

    block_weights: int
    """All weights of the blocks."""
    expert_matrices: int
    expert_parameters: tuple[str, ...]
    """Names of the parameters that hold them."""
    expert_weights: int
    other_parameters: tuple[str, ...]
    other_weights: int

    @property
    def share(self) -> float:
        """Share of the weights of the blocks."""
        return (self.expert_weights + self.other_weights) / max(self.block_weights, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, ready for JSON."""
        return {**asdict(self), "share": self.share}

    @property
    def notes(self) -> list[str]:
        """One sentence that says so, for people; none where nothing but a small table or two stays dense."""
        if self.share < WORTH_SAYING and not self.expert_matrices:
            return []
        parts = []
        if self.expert_matrices:
            parts.append(
                f"{self.expert_matrices} matrices of experts, which lie together in {self.expert_parameters[0]}"
                f"{_and_more(self.expert_parameters)}: {self.expert_weights:,}"
            )
        if self.other_parameters:
            parts.append(
                f"{len(self.other_parameters)} parameters that are no linear, {self.other_parameters[0]}"
                f"{_and_more(self.other_parameters)}: {self.other_weights:,}"
            )
        return [
            f"NOT COMPRESSED: {self.share:.1%} of the weights of the blocks can only stay dense "
            f"({self.expert_weights + self.other_weights:,} of {self.block_weights:,}). {'; '.join(parts)}."
        ]


def untouched(architecture: Architecture) -> Untouched:
    """Return what stays dense in a model; reads no weights."""
    matrices = architecture.matrices
    linears = [name for block in architecture.blocks for name in architecture.linears(block)]
    experts = [name for block in architecture.blocks for name in architecture.block_experts[block]]
    others = {
        name: shape
        for block in architecture.blocks
        for name, shape in architecture.block_others[block].items()
    }
    expert_weights = sum(matrices[name].numel for name in experts)
    other_weights = sum(map(prod, others.values()))
    return Untouched(
        block_weights=sum(matrices[name].numel for name in linears) + expert_weights + other_weights,
        expert_matrices=len(experts),
        expert_parameters=tuple(dict.fromkeys(matrices[name].parameter for name in experts)),
        expert_weights=expert_weights,
        other_parameters=tuple(others),
        other_weights=other_weights,
    )


def _and_more(names: tuple[str, ...]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
