"""A plan and the weights that it names -> the plan that native code runs."""

from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

from gossamer.errors import CheckpointError, RunError
from gossamer.kernels.cpu import LowRankMatrix
from gossamer.kernels.dispatch import native_module
from gossamer.runtime.plan import HIDDEN, AddNorm, Attention, Embed, Head, Linear, Linears, Norm, Op, Plan
from gossamer.runtime.weights import Weights

if TYPE_CHECKING:
    from gossamer.kernels import _native

NormArguments = tuple[Tensor, Tensor | None, float, bool]
Product: TypeAlias = "tuple[_native.Matrix, Tensor | None, int]"
"""Native matrix, bias, buffer for the result."""


def bind(plan: Plan, weights: Weights) -> "_native.Plan":
    """Return a `gossamer.kernels._native.Plan` over the weights.

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
    def __init__(self, plan: Plan, weights: Weights, native: "_native.Plan"):
        self.plan = plan
        self.weights = weights
        self.native = native
        self.buffers = {HIDDEN: 0} | {name: native.buffer(width) for name, width in plan.buffers.items()}
        self.rotaries = {
            name: native.rotary(list(rotary.inverse_frequency), rotary.scaling)
            for name, rotary in plan.rotaries.items()
        }

    def add(self, op: Op) -> None:
        match op:
            case Embed():
                positions = None if op.positions is None else self.weights.matrix(op.positions)
                self.native.embed(self.weights.matrix(self.holder(op.table)), op.scale, positions)
            case Linears():
                self.linears(op)
            case AddNorm():
                self.native.add_norm(self.buffers[op.input], self.buffers[op.target], self.norm(op.norm))
            case Attention():
                self.attention(op)
            case Head():
                self.head(op)

    def linears(self, op: Linears) -> None:
        """Products of one input. Those with a low-rank part are S x and B x here, and A (B x) added afterwards."""
        parts = {linear: part for linear in op.linears if (part := self.weights.low_rank(linear.module))}
        products = [self.linear(linear) for linear in op.linears if linear not in parts]
        reduced = {}
        for number, (linear, part) in enumerate(parts.items()):
            reduced[linear] = self.scratch(f"reduced {number}", part.right.num_outputs)
            products.append((part.right.native, None, reduced[linear]))
            if part.residual is not None and op.then != "add":
                products.append(self.residual(linear, part))
        self.products(op, products, "store" if parts else op.then)
        for linear, part in parts.items():
            if part.residual is not None and op.then == "add":
                self.products(op, [self.residual(linear, part)], "add")
            self.add_factors(op, linear, part, reduced[linear])
        if parts and op.then == "gate":
            first, *others = (self.buffers[linear.output] for linear in op.linears)
            self.native.gate(first, others[0] if others else -1, self.buffers[op.target], op.activation)

    def products(self, op: Linears, products: list[Product], then: str) -> None:
        source, target = self.buffers[op.input], self.buffers[op.target]
        self.native.linears(source, products, self.norm(op.norm), then, op.activation, target)

    def residual(self, linear: Linear, part: LowRankMatrix) -> Product:
        assert part.residual is not None
        return part.residual.native, self.weights.bias(linear.module), self.buffers[linear.output]

    def add_factors(self, op: Linears, linear: Linear, part: LowRankMatrix, reduced: int) -> None:
        """A (B x), added to where the residual's product went; where there is none, in its place."""
        adds = op.then == "add" or part.residual is not None
        bias = self.weights.bias(linear.module) if part.residual is None else None
        output = self.buffers[op.target if op.then == "add" else linear.output]
        product = self.scratch("product", part.left.num_outputs) if adds else output
        then = "add" if adds else "store"
        self.native.linears(reduced, [(part.left.native, bias, product)], None, then, op.activation, output)

    def scratch(self, name: str, width: int) -> int:
        """Return a buffer of the binder's own, the same for each op that asks for this name and width."""
        key = f"{name} {width}"
        if key not in self.buffers:
            self.buffers[key] = self.native.buffer(width)
        return self.buffers[key]

    def linear(self, linear: Linear) -> Product:
        matrix = self.weights.matrix(linear.module, self.plan.transposed)
        return matrix, self.weights.bias(linear.module), self.buffers[linear.output]

    def norm(self, norm: Norm | None) -> NormArguments | None:
        if norm is None:
            return None
        bias = None if norm.bias is None else self.weights.vector(norm.bias)
        return self.weights.vector(norm.weight, norm.offset), bias, norm.epsilon, norm.centred

    def part(self, place: tuple[str, int]) -> tuple[int, int]:
        """A buffer, and where in each of its rows something begins."""
        return self.buffers[place[0]], place[1]

    def attention(self, op: Attention) -> None:
        self.native.attention(
            self.part(op.query),
            self.part(op.key),
            self.part(op.value),
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

    def holder(self, module: str) -> str:
        """Return the module under whose name the files have the weight: of two that are tied it may be either."""
        if not self.weights.has(module):
            for op in self.plan.ops:
                if isinstance(op, Head) and op.tied_to is not None and module in (op.module, op.tied_to):
                    return op.tied_to if module == op.module else op.module
        return module

    def head(self, op: Head) -> None:
        self.native.head(
            0, self.weights.matrix(self.holder(op.module)), self.weights.bias(op.module), self.norm(op.norm)
        )
