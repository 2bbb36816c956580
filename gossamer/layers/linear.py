"""A linear layer over a packed weight, or over a float weight that keeps its zeros while it is trained.

Takes the place of a linear, whichever way round that holds its weight: y = x W^T + b.

O output features, I input features, T tokens.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from gossamer.errors import FormatError
from gossamer.formats.weight import PackedWeight
from gossamer.kernels.declaration import Meta
from gossamer.kernels.table import ACTIVATIONS, Operator
from gossamer.layers.packed_module import PackedModule


class SparseLinear(PackedModule):
    """y = x W^T + b for x of any leading shape and any float type; y has the type of x.

    Packed form: the buffers are the tensors of a packed weight; gradients flow to x and to the bias.
    Float form: `weight` is a Parameter [O, I]; with `mask_OI` (a buffer, True = kept) the removed weights
    stay zero in the product and get no gradient.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: Tensor | None,
        weight_dtype: torch.dtype = torch.float32,
    ):
        super().__init__(weight_dtype)
        self.in_features = in_features
        self.out_features = out_features
        self._activations = "float"
        self._source: PackedModule | None = None
        if bias is None or isinstance(bias, nn.Parameter):
            self.register_parameter("bias", bias)
        else:
            self.register_parameter("bias", nn.Parameter(bias))

    # ---- making one ----------------------------------------------------------------------------------------

    @classmethod
    def from_meta(
        cls,
        meta: Meta,
        bias: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Return the packed form with empty buffers, to be filled by a loader.

        `dtype` is that of the bias.
        """
        num_outputs, num_inputs = meta["shape"]
        empty = torch.empty(num_outputs, device=device, dtype=dtype) if bias else None
        linear = cls(num_inputs, num_outputs, empty, dtype)
        linear.hold_empty(meta, device)
        return linear

    @classmethod
    def from_packed(cls, packed: PackedWeight, bias: Tensor | None = None) -> Self:
        """Return the packed form over these tensors."""
        dtype = torch.float32 if bias is None else bias.dtype
        linear = cls(packed.shape[1], packed.shape[0], bias, dtype)
        linear.hold(packed)
        return linear

    @classmethod
    def from_linear(
        cls, linear: nn.Module, mask_OI: Tensor | None = None, *, transposed: bool = False
    ) -> Self:
        """Return the float form of a linear.

        It takes over the parameters and zeroes what the mask removes. `transposed`: the weight is held as [I, O], and
        is turned into a new parameter.
        """
        weight = linear.get_parameter("weight")
        if transposed:
            weight = nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)
        made = cls(weight.shape[1], weight.shape[0], getattr(linear, "bias", None), weight.dtype)
        made._hold_float(weight, mask_OI)
        return made.train(linear.training)

    @classmethod
    def tied_to(cls, embedding: PackedModule, bias: Tensor | None = None) -> Self:
        """Return a head over the tensors of a packed embedding; they stay the embedding's, here is only the
        bias.
        """
        assert embedding.meta is not None
        num_outputs, num_inputs = embedding.meta["shape"]
        head = cls(num_inputs, num_outputs, bias, embedding.weight_dtype)
        object.__setattr__(head, "_source", embedding)  # no submodule: its tensors must not be listed twice
        return head

    def _hold_float(self, weight: nn.Parameter, mask_OI: Tensor | None) -> None:
        if mask_OI is not None:
            if mask_OI.dtype != torch.bool or mask_OI.shape != weight.shape:
                raise FormatError(
                    f"mask: expected bool {list(weight.shape)}, got {mask_OI.dtype} {list(mask_OI.shape)}"
                )
            with torch.no_grad():
                weight.mul_(mask_OI)
        self.register_parameter("weight", weight)
        self.register_buffer("mask_OI", mask_OI)

    def pack(self, packed: PackedWeight) -> Self:
        """Turn into the packed form, in place."""
        if packed.shape != (self.out_features, self.in_features):
            raise FormatError(
                f"packed weight: expected {[self.out_features, self.in_features]}, got {list(packed.shape)}"
            )
        if self._is_float():
            del self._parameters["weight"], self._buffers["mask_OI"]
        elif self._source is None:
            self.release()
        object.__setattr__(self, "_source", None)
        self.hold(packed)
        return self

    def unpack(self) -> Self:
        """Turn into the float form, in place; removed weights become the mask."""
        if self._is_float():
            return self
        packed = self.weight_source().packed
        mask_OI = packed.mask()
        if self._source is None:
            self.release()
        object.__setattr__(self, "_source", None)
        weight = nn.Parameter(packed.unpack().to(self.weight_dtype))
        self._hold_float(weight, None if bool(mask_OI.all()) else mask_OI)
        return self

    # ---- using it ------------------------------------------------------------------------------------------

    @property
    def activations(self) -> str:
        """`float` (exact) or `int8` (inputs of integer weights are rounded, for speed)."""
        return self._activations

    @activations.setter
    def activations(self, activations: str) -> None:
        if activations not in ACTIVATIONS:
            raise FormatError(f"activations: expected one of {', '.join(ACTIVATIONS)}, got {activations!r}")
        self._activations = activations

    def weight_source(self) -> PackedModule:
        """Return the module whose buffers hold the packed weight: this one, or the embedding it is tied
        to.
        """
        return self if self._source is None else self._source

    def forward(self, x: Tensor) -> Tensor:
        source = self._source or self
        tensor = source._buffers.get(source._probe_name)
        operator = source._operator
        if operator is None or source._operator_tensor is not tensor:
            if source.meta is None:
                return self._float_forward(x)
            operator = source.operator()
        bias = self._parameters["bias"]
        x_TI = x if x.ndim == 2 else x.reshape(-1, self.in_features)
        if x_TI.dtype is not torch.float32:
            x_TI = x_TI.float()
        if not x_TI.is_contiguous():
            x_TI = x_TI.contiguous()
        if x.requires_grad and torch.is_grad_enabled():
            y_TO: Tensor = _PackedProduct.apply(x_TI, operator, self._activations, source)
        else:
            y_TO = operator(x_TI, self._activations)
        if bias is not None:
            y_TO += bias
        if x.dtype is not torch.float32:
            y_TO = y_TO.to(x.dtype)
        return y_TO if x.ndim == 2 else y_TO.view(*x.shape[:-1], self.out_features)

    def _float_forward(self, x: Tensor) -> Tensor:
        weight, mask_OI, bias = self.weight, self._buffers["mask_OI"], self._parameters["bias"]
        if mask_OI is not None:
            weight = weight * mask_OI
        y = functional.linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))
        return y.to(x.dtype)

    def _is_float(self) -> bool:
        return "weight" in self._parameters

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            source = self.__dict__.get("_source")
            if source is not None:
                return source.weight
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        form = "float" if self._is_float() else (self.weight_source().meta or {}).get("format", "")
        tied = ", tied" if self._source is not None else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, {form}{tied}"


class _PackedProduct(torch.autograd.Function):
    """x W^T with the gradient for x; rounded activations count as if they were exact (straight through)."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, operator: Operator, activations: str, source: PackedModule) -> Tensor:
        ctx.source = source
        return operator(x_TI, activations)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return gradients[0] @ ctx.source.packed.unpack(), None, None, None
