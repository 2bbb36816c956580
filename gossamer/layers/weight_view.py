"""What a packed module answers when somebody reads `module.weight`.

Models peek at the weight of a linear: T5 casts its input to `wo.weight.dtype` when that weight is a Tensor,
GPT-2's initialisation passes `c_proj.weight` to `normal_`, others read its device. A view answers such
questions without unpacking, is not a Tensor, claims to be initialised, and unpacks only when it really takes
part in a torch function.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


class WeightView:
    """Stands for the unpacked weight [rows, columns]; `unpack` makes it."""

    _is_hf_initialized = True  # read by transformers.initialization: never overwrite this
    requires_grad = False
    is_quantized = False
    ndim = 2

    def __init__(
        self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device, unpack: Callable[[], Tensor]
    ):
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self.device = device
        self._unpack = unpack

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return 2

    def numel(self) -> int:
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        return True

    def unpack(self) -> Tensor:
        """Return the weight as an ordinary tensor; a new one at each call."""
        return self._unpack().to(self.dtype)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.unpack(), name)

    def __getitem__(self, index: Any) -> Tensor:
        return self.unpack()[index]

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        _types: Iterable[type],
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args, kwargs = tree_map_only(WeightView, WeightView.unpack, (args, dict(kwargs or {})))
        return function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"WeightView(shape={list(self.shape)}, dtype={self.dtype}, device={self.device})"
