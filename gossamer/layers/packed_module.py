"""A module whose buffers are the tensors of a packed weight: what SparseLinear and PackedEmbedding share.

The state-dict keys are `<module>.<tensor name>`. The buffers keep their types under `.to(dtype)` and
`.half()`, because their bytes mean something; `weight_dtype` follows instead and says in which type results
are wanted.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from gossamer.formats.packed import empty_tensors, from_tensors, tensor_specs
from gossamer.formats.weight import PackedWeight
from gossamer.kernels.declaration import Meta
from gossamer.kernels.table import Operator, product
from gossamer.layers.weight_view import WeightView


class PackedModule(nn.Module):
    """Holds `meta` (None while there is no packed weight) and the tensors as buffers."""

    weight_dtype: torch.dtype
    meta: Meta | None

    def __init__(self, weight_dtype: torch.dtype = torch.float32):
        super().__init__()
        self.weight_dtype = weight_dtype
        self.meta = None
        self._probe_name = ""
        self._operator: Operator | None = None
        self._operator_tensor: Tensor | None = None

    def hold_empty(self, meta: Meta, device: torch.device | str | None) -> None:
        """Register uninitialised buffers of the declared types and shapes, for a loader to fill."""
        self._hold(meta, empty_tensors(meta, device))

    def hold(self, packed: PackedWeight) -> None:
        """Register the tensors of a packed weight as buffers (shared, not copied)."""
        self._hold(packed.meta(), packed.tensors())

    def _hold(self, meta: Meta, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.meta = dict(meta)
        self._probe_name = next(iter(tensors))

    def release(self) -> None:
        """Forget the packed weight and its buffers."""
        for name in self.packed_tensors():
            del self._buffers[name]
        self.meta = None
        self.forget_operator()

    def packed_tensors(self) -> dict[str, Tensor]:
        """Return the buffers that belong to the packed weight; none when there is no packed weight."""
        buffers: dict[str, Any] = self._buffers
        return {} if self.meta is None else {name: buffers[name] for name in tensor_specs(self.meta)}

    @property
    def packed(self) -> PackedWeight:
        """The packed weight over the current buffers, checked.

        FormatError when they contradict the declaration.
        """
        assert self.meta is not None
        return from_tensors(self.meta, self.packed_tensors())

    def operator(self) -> Operator:
        """Return the product x W^T, made at the first use and again when the buffers were replaced."""
        tensor = self._buffers[self._probe_name]
        if self._operator is None or self._operator_tensor is not tensor:
            packed = self.packed
            self._operator = product(packed.meta(), packed.tensors())
            self._operator_tensor = tensor
        return self._operator

    def forget_operator(self) -> None:
        self._operator = self._operator_tensor = None

    def weight_view(self) -> WeightView:
        assert self.meta is not None
        num_rows, num_columns = self.meta["shape"]
        device = self.get_buffer(self._probe_name).device
        return WeightView((num_rows, num_columns), self.weight_dtype, device, lambda: self.packed.unpack())

    def __getattr__(self, name: str) -> Any:
        # Reached only for what is no ordinary attribute; a weight that is a parameter or buffer comes last.
        if name == "weight" and self.__dict__.get("meta") is not None and "weight" not in self._buffers:
            return self.weight_view()
        return super().__getattr__(name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        moved = {name: _move(tensor, fn) for name, tensor in self.packed_tensors().items()}
        for name in moved:
            del self._buffers[name]
        super()._apply(fn, recurse)
        self._buffers.update(moved)
        self.weight_dtype = fn(torch.empty(0, dtype=self.weight_dtype)).dtype
        self.forget_operator()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.forget_operator()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_operator": None, "_operator_tensor": None}


def _move(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """Return fn(tensor) if that keeps the type, else the tensor on the device that fn chose."""
    moved = fn(tensor)
    return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
