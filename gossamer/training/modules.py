"""The modules of a student: linears and embeddings over matrices of which only what is kept gets a gradient.

The product's backward pass makes the gradient of one whole matrix at a time, takes what is kept of it, and forgets it.
In mixed precision (autocast) inputs and weights are rounded for the products, and gradients add up in float32.

O output features, I input features, T tokens; V rows and D columns of an embedding.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gossamer.training.kept import KeptWeight
from gossamer.training.matrix import LEFT, RESIDUAL, RIGHT, WHOLE, Weight, assembled


class StudentLinear(nn.Module):
    """y = x W^T + b, where W is one part, or residual + left right."""

    def __init__(self, parts: Mapping[str, Weight], bias: nn.Parameter | None) -> None:
        super().__init__()
        self.parts = dict(parts)
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if WHOLE in self.parts:
            y = product(x, self.parts[WHOLE])
        else:
            y = product(product(x, self.parts[RIGHT]), self.parts[LEFT])
            if RESIDUAL in self.parts:
                y = y + product(x, self.parts[RESIDUAL])
        bias = self._parameters["bias"]
        return y if bias is None else y + bias.to(y.dtype)

    @property
    def weight(self) -> Tensor:
        """The matrix [O, I], without a gradient: models look at its type."""
        return assembled(self.parts)


class StudentEmbedding(nn.Module):
    """Rows of a table, times a scale (Gemma)."""

    def __init__(self, table: Weight, scale: float, padding_idx: int | None) -> None:
        super().__init__()
        self.table, self.scale, self.padding_idx = table, scale, padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = _Rows.apply(ids, self.table.values_n, self.table)
        return rows if self.scale == 1.0 else rows * self.scale

    @property
    def weight(self) -> Tensor:
        """The table [V, D], without a gradient."""
        return self.table.working_OI


def product(x: Tensor, weight: Weight) -> Tensor:
    """Return x W^T, with gradients for x and for what is kept of the weight."""
    y: Tensor = _Product.apply(x, weight.values_n, weight)
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values_n: Tensor | None, weight: Weight) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        rounded = x.to(dtype)
        ctx.save_for_backward(*([rounded] if ctx.needs_input_grad[1] else []))
        ctx.weight, ctx.input_dtype = weight, x.dtype
        return functional.linear(rounded, weight.working_OI.to(dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        y_gradient = gradients[0]
        x_gradient = values_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = (y_gradient @ ctx.weight.working_OI.to(y_gradient.dtype)).to(ctx.input_dtype)
        if ctx.needs_input_grad[1]:
            (x,) = ctx.saved_tensors
            y_TO, x_TI = y_gradient.reshape(-1, y_gradient.shape[-1]), x.reshape(-1, x.shape[-1])
            values_gradient = _kept(ctx.weight, y_TO.T @ x_TI)
        return x_gradient, values_gradient, None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, values_n: Tensor | None, table: Weight) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.table = table
        return functional.embedding(ids, table.working_OI)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor | None, None]:
        (ids,), rows_gradient = ctx.saved_tensors, gradients[0]
        gradient_VD = torch.zeros_like(ctx.table.working_OI)
        gradient_VD.index_add_(0, ids.reshape(-1), rows_gradient.reshape(-1, gradient_VD.shape[1]).float())
        return None, _kept(ctx.table, gradient_VD), None


def _kept(weight: KeptWeight, gradient_OI: Tensor) -> Tensor:
    return weight.take(gradient_OI).float()
