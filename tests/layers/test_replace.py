"""Finding and replacing linears."""

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from gossamer.errors import UsageError
from gossamer.layers.linear import SparseLinear
from gossamer.layers.replace import replace_module, sparse_linears


def model() -> nn.Module:
    inner = nn.ModuleDict({"up": nn.Linear(4, 8), "norm": nn.LayerNorm(8), "down": Conv1D(4, 8)})
    return nn.Sequential(inner, nn.Linear(4, 2)).eval()


def test_a_module_is_replaced_by_name() -> None:
    changed = model()
    for name in ("0.up", "0.down", "1"):
        linear = changed.get_submodule(name)
        replace_module(changed, name, SparseLinear.from_linear(linear, transposed=name == "0.down"))
    assert list(sparse_linears(changed)) == ["0.up", "0.down", "1"]
    assert not any(module.training for module in changed.modules())


@pytest.mark.parametrize("name", ["0.missing", "nowhere.up", "", "0.up.weight"])
def test_a_name_that_is_no_module_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="name of a module"):
        replace_module(model(), name, nn.Identity())
