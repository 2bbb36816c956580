"""A device that every machine has: `away`, whose tensors lie in main memory but may not be mixed with those of the CPU.

It finds, without a GPU, what a GPU would refuse: a tensor made in the wrong place, `.numpy()` of one that is not on the
CPU, an index from elsewhere. It says nothing about speed, or about what the kernels of a real GPU round otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

if torch.cuda.is_available():  # torch cannot differentiate on a GPU beside a device that is written in Python
    pytest.skip("a real GPU is here (tests/compression/test_gpu.py)", allow_module_level=True)
try:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
except ImportError:  # an older torch than the locked one
    pytest.skip("this torch cannot have devices that are written in Python", allow_module_level=True)
_setup_privateuseone_for_python_backend("away")
AWAY = torch.device("away", 0)
aten = torch.ops.aten
MOVES = (aten._to_copy.default, aten.copy_.default)
"""What may have tensors of both devices."""


class _Away(Tensor):
    """A tensor of that device, `own` being its values."""

    @staticmethod
    def __new__(cls, own: Tensor) -> "_Away":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            own.size(),
            strides=own.stride(),
            storage_offset=own.storage_offset(),
            dtype=own.dtype,
            device=AWAY,
        )

    def __init__(self, own: Tensor) -> None:
        self.own = own

    def __repr__(self) -> str:  # type: ignore[override]
        return f"away: {self.own}"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values, and give what comes of it back where it belongs."""
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    away = [each for each in given if isinstance(each, _Away)]
    device = kwargs.get("device")
    if away and func not in MOVES and (mixed := [each for each in given if _out_of_place(func, each)]):
        raise RuntimeError(f"{func}: a tensor of {list(mixed[0].shape)} is on the CPU, others are away")
    if func is aten._fused_sdp_choice.default and away:
        return 0  # plain mathematics; the fused kernels belong to devices
    to_away = bool(away) if device is None else torch.device(device).type == AWAY.type
    if func is aten.copy_.default:
        to_away = isinstance(args[0], _Away)
    if device is not None:
        kwargs = {**kwargs, "device": "cpu", "pin_memory": False}
    args, kwargs = tree_map_only(_Away, lambda each: each.own, (args, kwargs))
    result = func(*args, **kwargs)
    if not to_away:
        return result
    same = {id(each.own): each for each in away}
    inference = torch.is_inference_mode_enabled()
    if func.is_view:  # of a normal tensor is a normal tensor
        inference = away[0].is_inference()
    with torch.inference_mode(inference):
        return tree_map_only(Tensor, lambda each: same[id(each)] if id(each) in same else _Away(each), result)


def _out_of_place(func: Any, tensor: Tensor) -> bool:
    number = tensor.ndim == 0 and torch.Tag.pointwise in func.tags  # stands for a number, as on a GPU
    return not isinstance(tensor, _Away) and not number


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled():  # operations then come before they were taken apart
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What does not come to `_Operations` as it should: new tensors, lists as indices, other values of a parameter."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == AWAY.type:
            return torch.tensor(*args, **{**kwargs, "device": "cpu"}).to(AWAY)
        if not (args and isinstance(args[0], _Away)):
            return func(*args, **kwargs)
        if func is Tensor.tolist:
            return args[0].own.tolist()
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            assert isinstance(args[1], _Away)
            args[0].own = args[1].own
        if func is Tensor.__getitem__ and isinstance(args[1], tuple):
            index = (torch.tensor(each).to(AWAY) if isinstance(each, list) else each for each in args[1])
            args = (args[0], tuple(index))
        if func is nn.functional.scaled_dot_product_attention and torch.is_inference_mode_enabled():
            args, kwargs = tree_map_only(_Away, lambda each: each.own, (args, kwargs))
            return _Away(func(*args, **kwargs))  # by the kernel of the CPU, which rounds as it does there
        return func(*args, **kwargs)


@contextmanager
def away() -> Iterator[torch.device]:
    """While open, the device can be used."""
    with _Operations(), _Functions():
        yield AWAY
