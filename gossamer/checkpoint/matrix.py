"""A weight matrix read and written as [O, I], whatever holds it.

    linear      the weight of an nn.Linear [O, I], or of transformers' Conv1D [I, O]
    embedding   the weight of an nn.Embedding: O entries of width I
    expert      a slice of one parameter for all experts of a layer, [E, O, I] or [E, I, O]

A handle says where the matrix is; the model is given to each call. Only shapes are read to make one, so that
modules may be on the meta device.

O output features, I input features, E experts.
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LINEAR_TYPES = (nn.Linear, Conv1D)
FUSED_INPUTS, UNGATED_INPUT, OUTPUT = "gate_up_proj", "up_proj", "down_proj"
"""What transformers calls the parameters of fused experts: into the experts, with and without a gate; out of them."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Where one weight matrix of a model is; `x @ get(model).T` is what the model computes with it."""

    name: str
    """As recipes call it: that of its linear or embedding, `MODULE.3.down_proj` for the fourth expert."""
    parameter: str
    """Full name of the parameter that holds it."""
    shape: tuple[int, int]
    """(O, I); (entries, width) of an embedding."""
    transposed: bool = False
    """True where it is held as [I, O]."""
    expert: int | None = None
    """Which slice of the parameter it is; None if it is the whole."""

    @property
    def module(self) -> str:
        """Name of the module that holds it. A linear's inputs are that module's; an expert's are not."""
        return self.parameter.rpartition(".")[0]

    @property
    def numel(self) -> int:
        return self.shape[0] * self.shape[1]

    def below(self, module: str) -> "Matrix":
        """Return the handle for use with the module of that name in place of the model."""
        prefix = f"{module}."
        return replace(
            self, name=self.name.removeprefix(prefix), parameter=self.parameter.removeprefix(prefix)
        )

    def holder(self, model: nn.Module) -> nn.Parameter:
        """Return the parameter that holds it; AttributeError where the model holds something else there."""
        return model.get_parameter(self.parameter)

    def get(self, model: nn.Module) -> Tensor:
        """Return weight_OI, contiguous, without a gradient; it shares memory with the parameter where it can."""
        return self.from_stored(self.holder(model).detach())

    def put(self, model: nn.Module, weight_OI: Tensor) -> None:
        """Give the parameter these values, rounded to its type; it no longer asks for a gradient.

        What is tied to the parameter sees them too; what only shared its old values keeps those. An expert costs a
        copy of the parameter that holds them all.
        """
        assert tuple(weight_OI.shape) == self.shape, f"{self.name}: {list(weight_OI.shape)}"
        parameter = self.holder(model)
        values = self.as_stored(weight_OI.detach()).to(parameter.device, parameter.dtype)
        if self.expert is not None:
            whole = parameter.detach().clone()
            whole[self.expert] = values
            values = whole
        parameter.data = values
        parameter.requires_grad_(False)

    def from_stored(self, stored: Tensor) -> Tensor:
        """Turn the values of the parameter into weight_OI, contiguous; no copy where they are that already."""
        own = stored if self.expert is None else stored[self.expert]
        return (own.T if self.transposed else own).contiguous()

    def as_stored(self, values_OI: Tensor) -> Tensor:
        """Turn a weight or a mask [O, I] the way in which the parameter (an expert's slice of it) holds it."""
        return values_OI.T.contiguous() if self.transposed else values_OI


def matrix_of(name: str, module: nn.Module) -> Matrix | None:
    """Return the handle of the linear or embedding of that full name; None for any other module."""
    if not isinstance(module, (*LINEAR_TYPES, nn.Embedding)):
        return None
    rows, columns = module.weight.shape
    transposed = isinstance(module, Conv1D)
    shape = (columns, rows) if transposed else (rows, columns)
    return Matrix(name, f"{name}.weight", shape, transposed)


def expert_matrices(name: str, module: nn.Module) -> tuple[Matrix, ...]:
    """Return the handles of all experts that a module holds fused, expert by expert.

    Empty where it holds none, or where neither its class nor the shapes say which way round they are held.
    Source: transformers' `use_experts_implementation`, which marks a class with `is_transposed`.
    """
    held = {key: each for key, each in module.named_parameters(recurse=False) if each.ndim == 3}
    into = FUSED_INPUTS if FUSED_INPUTS in held else UNGATED_INPUT
    if into not in held or OUTPUT not in held or len(held[into]) != len(held[OUTPUT]):
        return ()
    fitting = [
        (first, second)
        for first, second in _ways_round(module)
        if _fits(_turned(held[into], first), _turned(held[OUTPUT], second), gated=into == FUSED_INPUTS)
    ]
    if len(fitting) != 1:
        return ()
    ways = dict(zip((into, OUTPUT), fitting[0], strict=True))
    return tuple(
        Matrix(f"{name}.{expert}.{key}", f"{name}.{key}", _turned(held[key], transposed), transposed, expert)
        for expert in range(len(held[into]))
        for key, transposed in ways.items()
    )


def _ways_round(module: nn.Module) -> list[tuple[bool, bool]]:
    """Whether the matrices into and out of the experts may be held as [I, O]: what the class says, or all ways."""
    declared = getattr(module, "is_transposed", None)
    if isinstance(declared, bool):
        return [(declared, declared)]
    return [(first, second) for first in (False, True) for second in (False, True)]


def _turned(parameter: Tensor, transposed: bool) -> tuple[int, int]:
    """(O, I) of one expert."""
    _experts, rows, columns = parameter.shape
    return (columns, rows) if transposed else (rows, columns)


def _fits(into: tuple[int, int], out: tuple[int, int], gated: bool) -> bool:
    """True if a gate halves (or no gate keeps) the outputs of one (O, I), and the other brings them back."""
    return into[0] == (2 if gated else 1) * out[1] and into[1] == out[0]
