"""A plan and the weights that it names -> the plan that native code runs."""

from typing import Any

from torch import Tensor

from gossamer.errors import CheckpointError, RunError
from gossamer.kernels.dispatch import native_module
from gossamer.runtime.plan import HIDDEN, AddNorm, Attention, Embed, Head, Linear, Linears, Norm, Plan
from gossamer.runtime.weights import Weights

NormArguments = tuple[Tensor, Tensor | None, float, bool]


def bind(plan: Plan, weights: Weights) -> Any:
    """Return a `gossamer._native.Plan` over the weights.

    Raises CheckpointError when a weight is missing or does not fit, RunError without native kernels.
    """
    native = native_module()
    if native is None:
        raise RunError("the engine needs the native kernels: reinstall gossamer with a C++20 compiler.")
    try:
        bound = _Binder(plan, weights, native.Plan(plan.hidden_size, plan.max_positions))
        for op in plan.ops:
            bound.add(op)
    except ValueError as error:
        raise CheckpointError(
            f"{weights.where}: the weights do not fit the configuration: {error}. Restore the folder."
        ) from error
    return bound.native


class _Binder:
    def __init__(self, plan: Plan, weights: Weights, native: Any):
        self.plan = plan
        self.weights = weights
        self.native = native
        self.buffers = {HIDDEN: 0} | {name: native.buffer(width) for name, width in plan.buffers.items()}
        self.rotaries = {
            name: native.rotary(list(rotary.inverse_frequency), rotary.scaling)
            for name, rotary in plan.rotaries.items()
        }

    def add(self, op: Any) -> None:
        match op:
            case Embed():
                positions = None if op.positions is None else self.weights.matrix(op.positions)
                self.native.embed(self.weights.matrix(op.table), op.scale, positions)
            case Linears():
                self.native.linears(
                    self.buffers[op.input],
                    [self.linear(linear) for linear in op.linears],
                    self.norm(op.norm),
                    op.then,
                    op.activation,
                    self.buffers[op.target],
                )
            case AddNorm():
                self.native.add_norm(self.buffers[op.input], self.buffers[op.target], self.norm(op.norm))
            case Attention():
                self.attention(op)
            case Head():
                self.head(op)

    def linear(self, linear: Linear) -> tuple[Any, Tensor | None, int]:
        matrix = self.weights.matrix(linear.module, self.plan.transposed)
        return matrix, self.weights.bias(linear.module), self.buffers[linear.output]

    def norm(self, norm: Norm | None) -> NormArguments | None:
        if norm is None:
            return None
        bias = None if norm.bias is None else self.weights.vector(norm.bias)
        return self.weights.vector(norm.weight, norm.offset), bias, norm.epsilon, norm.centred

    def attention(self, op: Attention) -> None:
        self.native.attention(
            *((self.buffers[name], offset) for name, offset in (op.query, op.key, op.value)),
            self.buffers[op.output],
            op.heads,
            op.key_heads,
            op.head_dim,
            op.layer,
            op.scale,
            op.window,
            -1 if op.rotary is None else self.rotaries[op.rotary],
            self.norm(op.query_norm),
            self.norm(op.key_norm),
        )

    def head(self, op: Head) -> None:
        module = op.module
        if op.tied_to is not None and not self.weights.has(module):
            module = op.tied_to
        self.native.head(0, self.weights.matrix(module), self.weights.bias(op.module), self.norm(op.norm))
