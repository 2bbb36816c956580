"""Packed modules inside every architecture of transformers that Gossamer handles."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from gossamer.checkpoint.architecture import describe
from gossamer.formats.choose import pack
from gossamer.formats.quantized import Quantized
from gossamer.layers.embedding import PackedEmbedding
from gossamer.layers.linear import SparseLinear
from gossamer.layers.replace import replace_module
from tests.formats.cases import random_mask
from tests.models import KINDS, tiny_inputs, tiny_model


def rounded(weight: Tensor) -> Quantized:
    """Six-bit codes, one scale per row."""
    scale = (weight.abs().amax(1, keepdim=True) / 31).half().float()
    codes = (weight / scale).round().clamp(-32, 31) + 32
    return Quantized(codes.to(torch.uint8), scale, None, 6, weight.shape[1])


def packed_twins(kind: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A dense model, and the same one with packed linears, embedding and (where the model ties it) head."""
    dense = tiny_model(kind).to(dtype)
    packed = copy.deepcopy(dense)
    table = packed.get_input_embeddings()
    codes = rounded(table.weight.float())
    embedding = PackedEmbedding.from_packed(pack(table.weight, None, codes), table)
    with torch.no_grad():
        dense.get_input_embeddings().weight.copy_(codes.dequantize())
        parts = describe(dense)
        for name in parts.all_linears:
            old = packed.get_submodule(name)
            if old.weight is table.weight:
                replace_module(packed, name, SparseLinear.tied_to(embedding, bias=old.bias))
                continue
            linear = SparseLinear.from_linear(old, transposed=parts.matrix(name).transposed)
            weight = linear.weight.detach().float()
            linear.pack(pack(weight, random_mask(*weight.shape), rounded(weight)))
            values = linear.packed.unpack().to(dtype)
            dense.get_submodule(name).weight.copy_(parts.matrix(name).as_stored(values))
            replace_module(packed, name, linear)
    modules = dict(packed.named_modules())
    for name in [name for name, module in modules.items() if getattr(module, "weight", None) is table.weight]:
        replace_module(packed, name, embedding)  # T5 has three embeddings over one table
    return dense, packed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_model_gives_the_logits_of_its_dense_twin(kind: str, dtype: torch.dtype) -> None:
    dense, packed = packed_twins(kind, dtype)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tiny_inputs(kind).items()}
    with torch.no_grad():
        expected, got = dense(**inputs).logits, packed(**inputs).logits
    assert got.dtype == expected.dtype
    error = (got - expected).float().norm() / expected.float().norm()
    assert error < (1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("kind", ["gpt2", "t5", "llama", "gemma3"])
def test_initialising_a_model_leaves_packed_weights_alone(kind: str) -> None:
    _, packed = packed_twins(kind, torch.float32)
    before = {name: tensor.clone() for name, tensor in packed.state_dict().items() if name.endswith("codes4")}
    for module in packed.modules():
        packed._init_weights(module)
    assert before
    for name, tensor in before.items():
        assert torch.equal(packed.state_dict()[name], tensor)
