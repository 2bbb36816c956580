"""A compressed model to be trained: its packed matrices taken apart, all else that is trained beside them.

What changes in a step: `settle` makes gradients of what the backward passes have collected, an optimizer moves the
masters, `refresh` makes what the model computes with. `tensors` gives what is to be stored, in the types and shapes
that the folder has; it is exactly what the model computes with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from gossamer.checkpoint.architecture import Architecture
from gossamer.checkpoint.matrix import Matrix
from gossamer.training.grid import GridWeight
from gossamer.training.kept import FloatWeight, KeptWeight, Kind
from gossamer.training.matrix import LEFT, RESIDUAL, RIGHT, WHOLE, TrainedMatrix
from gossamer.training.plain import PlainWeight

Mode = Literal["all", "lora", "norms"]
MODES: tuple[Mode, ...] = ("all", "lora", "norms")


@dataclass
class Student:
    """The model, and what of it is trained, by the names under which it is stored."""

    model: PreTrainedModel
    packed: dict[str, TrainedMatrix] = field(default_factory=dict)
    dense: dict[str, tuple[Matrix, FloatWeight]] = field(default_factory=dict)
    """Matrices that are stored as they are."""
    plain: dict[str, PlainWeight] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What is not trained, or not as one might think."""

    def weights(self) -> Iterator[tuple[str, KeptWeight]]:
        """Every matrix that is trained, part by part."""
        for name, matrix in self.packed.items():
            for part, weight in matrix.parts.items():
                yield f"{name}/{part}", weight
        for name, (_matrix, weight) in self.dense.items():
            yield f"{name}/{WHOLE}", weight

    def trained(self) -> dict[str, tuple[nn.Parameter, Kind]]:
        """What the optimizer moves, by name, and what each is measured in."""
        found: dict[str, tuple[nn.Parameter, Kind]] = {}
        for name, weight in self.weights():
            found |= {f"{name}/{key}": each for key, each in weight.trained().items()}
        return found | {name: (plain.master, "weight") for name, plain in self.plain.items()}

    def masters(self) -> dict[str, nn.Parameter]:
        """The same, the numbers alone."""
        return {name: master for name, (master, _kind) in self.trained().items()}

    def lean(self, parent: PreTrainedModel, architecture: Architecture) -> None:
        """Let codes begin beside the middle of their cells, towards the parent's weights; no weight changes."""
        for _name, weight, wanted_OI in self.towards(parent, architecture):
            weight.lean(wanted_OI)

    def towards(
        self, parent: PreTrainedModel, architecture: Architecture
    ) -> Iterator[tuple[str, GridWeight, Tensor]]:
        """Give every matrix of codes with the weights [O, I] that the parent has in its place."""
        for name, trained in self.packed.items():
            weight = trained.parts.get(WHOLE, trained.parts.get(RESIDUAL))
            if isinstance(weight, GridWeight):
                wanted_OI = architecture.matrix(name).get(parent).float()
                if LEFT in trained.parts:
                    wanted_OI = wanted_OI - trained.parts[LEFT].working_OI @ trained.parts[RIGHT].working_OI
                yield name, weight, wanted_OI

    def settle(self) -> None:
        """Give the masters their gradients."""
        for _name, weight in self.weights():
            weight.settle()
        for plain in self.plain.values():
            plain.settle()

    def refresh(self) -> None:
        """Let the model compute with what the masters are now."""
        for _name, weight in self.weights():
            weight.refresh()
        for plain in self.plain.values():
            plain.refresh()

    def forget_gradients(self) -> None:
        """Forget what was collected, and the gradients of the masters."""
        for _name, weight in self.weights():
            weight.values_n.grad = None
        for each in self.masters().values():
            each.grad = None
        for plain in self.plain.values():
            plain.parameter.grad = None

    def snapshot(self) -> dict[str, Tensor]:
        """Return what the model computes with, in the types in which it is stored."""
        found = {
            f"{name}/{key}": each
            for name, weight in self.weights()
            for key, each in weight.snapshot().items()
        }
        return found | {name: plain.stored() for name, plain in self.plain.items()}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Compute with what a snapshot has."""
        for name, weight in self.weights():
            prefix = f"{name}/"
            own = {key.removeprefix(prefix): each for key, each in snapshot.items() if key.startswith(prefix)}
            weight.restore(own)
        for name, plain in self.plain.items():
            plain.restore(snapshot[name])

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored of all that is trained, by name.

        RunError if packing would change a value; FormatError if one does not fit in its type.
        """
        names = (*self.packed, *self.dense, *self.plain)
        return {key: tensor for name in names for key, tensor in self.stored(name).items()}

    def stored(self, name: str) -> dict[str, Tensor]:
        """Return the same of one matrix or parameter."""
        if name in self.packed:
            return {f"{name}.{key}": each for key, each in self.packed[name].repacked().tensors().items()}
        if name in self.dense:
            matrix, weight = self.dense[name]
            return {f"{name}.weight": matrix.as_stored(weight.working_OI).to(weight.dtype)}
        return {name: self.plain[name].stored()}

    def checkpoint_blocks(self, blocks: Sequence[str]) -> None:
        """Keep only the inputs of each block for the backward pass, which runs it again."""
        for name in blocks:
            block = self.model.get_submodule(name)
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def num_kept(self) -> int:
        """How many weights of matrices are trained."""
        return sum(weight.num_kept() for _name, weight in self.weights())

    def num_removed_of_trained(self) -> int:
        """How many numbers more the masters would have if the matrices had no zeros; adapters have none."""
        return sum(
            weight.working_OI.numel() - weight.values_n.numel()
            for _name, weight in self.weights()
            if weight.adapter is None
        )

    def num_removed(self) -> int:
        """How many weights of these matrices are zero and stay it."""
        return sum(weight.working_OI.numel() - weight.num_kept() for _name, weight in self.weights())


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the moments that an optimizer keeps."""
    values = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in values if isinstance(value, Tensor) and value.ndim > 0)
