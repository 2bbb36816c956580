"""Finding linear layers in a model and putting others in their place."""

import sys

from torch import nn

from gossamer.errors import UsageError
from gossamer.layers.linear import SparseLinear


def is_linear(module: nn.Module) -> bool:
    """True for nn.Linear and for transformers' Conv1D, which is a linear with a transposed weight."""
    if isinstance(module, nn.Linear):
        return True
    transformers = sys.modules.get("transformers.pytorch_utils")  # not imported: no Conv1D either
    return transformers is not None and isinstance(module, transformers.Conv1D)


def linears(model: nn.Module) -> dict[str, nn.Module]:
    """Return {name: nn.Linear or Conv1D} in model order."""
    return {name: module for name, module in model.named_modules() if is_linear(module)}


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
