"""Putting modules in the place of others, and finding those that were put there."""

from torch import nn

from gossamer.errors import UsageError
from gossamer.layers.linear import SparseLinear


def sparse_linears(model: nn.Module) -> dict[str, SparseLinear]:
    """Return {name: SparseLinear} in model order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SparseLinear)}


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where model.<name> is. UsageError when there is nothing of that name."""
    parent_name, _, child_name = name.rpartition(".")
    try:
        parent = model.get_submodule(parent_name)
        old = parent.get_submodule(child_name)
    except AttributeError as error:
        where = type(model).__name__
        raise UsageError(f"{name}: expected the name of a module of {where}, got none such") from error
    if old is model:
        raise UsageError(f"{name!r}: expected the name of a module inside the model")
    module.train(old.training)
    setattr(parent, child_name, module)
