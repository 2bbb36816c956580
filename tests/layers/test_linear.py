"""SparseLinear: same results as the dense linear, gradients, types, copies, loading."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gossamer.errors import FormatError
from gossamer.formats.choose import pack
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.packed import PackedWeight
from gossamer.layers.linear import SparseLinear
from tests.formats.cases import EXAMPLES, quantized, random_mask, weight

every_format = pytest.mark.parametrize("name", EXAMPLES)


def inputs(packed: PackedWeight, *leading: int) -> Tensor:
    return torch.randn(*leading, packed.shape[1], generator=torch.Generator().manual_seed(4))


def bias_for(packed: PackedWeight) -> Tensor:
    return torch.randn(packed.shape[0], generator=torch.Generator().manual_seed(5))


@every_format
def test_it_computes_what_the_dense_linear_computes(name: str) -> None:
    packed = EXAMPLES[name]
    bias = bias_for(packed)
    linear = SparseLinear.from_packed(packed, bias)
    for leading in ((), (1,), (3,), (2, 3), (2, 1, 3), (0,)):
        x = inputs(packed, *leading)
        expected = x.double() @ packed.unpack().double().T + bias
        got = linear(x)
        assert got.shape == expected.shape
        assert torch.allclose(got.double(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_results_have_the_type_of_the_input(dtype: torch.dtype) -> None:
    packed = EXAMPLES["bitmask-4-symmetric"]
    linear = SparseLinear.from_packed(packed, bias_for(packed))
    x = inputs(packed, 2, 3).to(dtype)
    assert linear(x).dtype == dtype
    expected = x.float() @ packed.unpack().T + bias_for(packed)
    assert torch.allclose(linear(x).float(), expected, rtol=1e-2, atol=5e-2)
    assert linear.unpack()(x).dtype == dtype


def test_inputs_need_not_be_contiguous() -> None:
    packed = EXAMPLES["integer-4-symmetric"]
    x = inputs(packed, 6, 5).transpose(0, 1)
    assert torch.equal(SparseLinear.from_packed(packed)(x), SparseLinear.from_packed(packed)(x.contiguous()))


@every_format
def test_gradients_flow_to_the_input_and_the_bias(name: str) -> None:
    packed = EXAMPLES[name]
    linear = SparseLinear.from_packed(packed, bias_for(packed))
    x = inputs(packed, 2, 3).requires_grad_()
    upstream = torch.randn(2, 3, packed.shape[0])
    (linear(x) * upstream).sum().backward()
    assert torch.allclose(x.grad, upstream @ packed.unpack(), atol=1e-3)
    assert torch.allclose(linear.bias.grad, upstream.sum((0, 1)), atol=1e-4)


def test_int8_activations_round_the_input() -> None:
    packed = EXAMPLES["integer-4-symmetric"]
    linear, x = SparseLinear.from_packed(packed), inputs(packed, 3)
    exact = linear(x)
    linear.activations = "int8"
    assert not torch.equal(linear(x), exact)
    assert torch.allclose(linear(x), packed.matmul(x, "int8"), atol=1e-5)
    assert (linear(x) - exact).norm() < 0.02 * exact.norm()
    with pytest.raises(FormatError, match="activations"):
        linear.activations = "int3"


@every_format
def test_state_dict_has_the_names_of_the_tensors_and_loads_into_an_empty_module(name: str) -> None:
    packed = EXAMPLES[name]
    linear, x = SparseLinear.from_packed(packed, bias_for(packed)), inputs(packed, 2)
    assert set(linear.state_dict()) == {*packed.tensors(), "bias"}
    for assign in (False, True):
        empty = SparseLinear.from_meta(packed.meta(), bias=True, device="meta")
        if not assign:
            empty = empty.to_empty(device="cpu")
        empty.load_state_dict(linear.state_dict(), assign=assign)
        assert torch.equal(empty(x), linear(x))


def test_the_product_is_made_again_when_buffers_change() -> None:
    first, second = (IntegerWeight.pack(quantized(19, 96, 4, 32, seed=seed)) for seed in (1, 2))
    linear, x = SparseLinear.from_packed(first), inputs(first, 2)
    before = linear(x)
    linear.load_state_dict(SparseLinear.from_packed(second).state_dict())
    assert torch.allclose(linear(x), x @ second.unpack().T, atol=1e-3)
    assert not torch.equal(linear(x), before)
    linear = SparseLinear.from_packed(IntegerWeight.pack(quantized(19, 96, 4, 32, seed=1)))
    linear(x)
    for name, tensor in second.tensors().items():
        setattr(linear, name, tensor)
    assert torch.allclose(linear(x), x @ second.unpack().T, atol=1e-3)


def test_hostile_buffers_are_refused_at_the_first_use() -> None:
    packed = EXAMPLES["bitmask-4-symmetric"]
    linear = SparseLinear.from_packed(packed)
    state = linear.state_dict()
    state["offsets"] = state["offsets"] + 1
    empty = SparseLinear.from_meta(packed.meta(), bias=False)
    empty.load_state_dict(state)
    with pytest.raises(FormatError, match="offsets"):
        empty(inputs(packed, 1))


@every_format
def test_casting_the_module_leaves_the_packed_bytes_alone(name: str) -> None:
    packed = EXAMPLES[name]
    linear, x = SparseLinear.from_packed(packed, bias_for(packed)), inputs(packed, 2)
    before = linear(x)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        linear.to(dtype)
        assert linear.weight_dtype == linear.bias.dtype == dtype
        for key, tensor in packed.tensors().items():
            assert torch.equal(linear.state_dict()[key], tensor)
            assert linear.state_dict()[key].dtype == tensor.dtype
    linear.bias.data.copy_(bias_for(packed))
    assert torch.equal(linear(x), before)
    assert {t.device.type for t in linear.to("meta").state_dict().values()} == {"meta"}


def test_copies_and_pickles_compute_the_same() -> None:
    packed = EXAMPLES["bitmask-4-symmetric"]
    linear, x = SparseLinear.from_packed(packed, bias_for(packed)), inputs(packed, 2)
    before = linear(x)
    assert torch.equal(copy.deepcopy(linear)(x), before)
    assert torch.equal(pickle.loads(pickle.dumps(linear))(x), before)


@every_format
def test_the_weight_can_be_looked_at(name: str) -> None:
    packed = EXAMPLES[name]
    linear = SparseLinear.from_packed(packed)
    assert linear.weight.shape == packed.shape
    assert linear.weight.device.type == "cpu"
    assert linear.weight.numel() == packed.shape[0] * packed.shape[1]
    x = inputs(packed, 2)
    assert torch.allclose(nn.functional.linear(x, linear.weight.to(torch.float32)), linear(x), atol=1e-3)


def test_looking_at_the_weight_does_not_unpack_or_change_it() -> None:
    linear = SparseLinear.from_meta(EXAMPLES["integer-4-symmetric"].meta(), bias=False, device="meta")
    assert not isinstance(linear.weight, Tensor)  # T5 then leaves the type of its activations alone
    assert linear.weight.dtype == torch.float32
    assert linear.weight._is_hf_initialized  # transformers' initialisation then passes it by
    assert linear.to(torch.bfloat16).weight.dtype == torch.bfloat16
    linear = SparseLinear.from_packed(EXAMPLES["integer-4-symmetric"])
    x = inputs(EXAMPLES["integer-4-symmetric"], 2)
    assert torch.equal(x @ linear.weight.T, x @ EXAMPLES["integer-4-symmetric"].unpack().T)
    assert torch.equal(
        torch.cat([linear.weight, linear.weight])[:19], EXAMPLES["integer-4-symmetric"].unpack()
    )


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_float_form_takes_the_place_of_a_linear_or_conv1d(kind: str) -> None:
    dense = nn.Linear(6, 4) if kind == "linear" else Conv1D(4, 6)
    x = torch.randn(2, 3, 6)
    linear = SparseLinear.from_linear(dense, transposed=kind == "conv1d")
    assert (linear.in_features, linear.out_features) == (6, 4)
    assert torch.allclose(linear(x), dense(x), atol=1e-6)
    assert set(linear.state_dict()) == {"weight", "bias"}


def test_float_form_keeps_zeros_through_training() -> None:
    mask = random_mask(4, 6)
    linear = SparseLinear.from_linear(nn.Linear(6, 4), mask)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=0.1, weight_decay=0.1)
    before = linear.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        linear(torch.randn(5, 6)).square().sum().backward()
        assert not bool(linear.weight.grad[~mask].any())
        optimizer.step()
    assert not bool(linear.weight[~mask].any())
    assert not torch.equal(linear.weight[mask], before[mask])


def test_packing_and_unpacking_in_place_keep_results_and_mask() -> None:
    mask = random_mask(20, 64)
    linear = SparseLinear.from_linear(nn.Linear(64, 20), mask)
    x = torch.randn(2, 64)
    before = linear(x)
    packed = pack(linear.weight.detach(), mask, None, torch.float32)
    assert linear.pack(packed) is linear
    assert [name for name, _ in linear.named_parameters()] == ["bias"]
    assert torch.allclose(linear(x), before, atol=1e-5)
    assert torch.equal(linear.packed.mask(), mask)
    linear.pack(pack(weight(20, 64), None, None, torch.float32))  # dense: a buffer called weight
    assert torch.allclose(linear(x), nn.functional.linear(x, weight(20, 64), linear.bias), atol=1e-5)
    linear.pack(packed).unpack()
    assert torch.equal(linear.mask_OI, mask)
    assert torch.allclose(linear(x), before, atol=1e-5)
    assert linear.weight.requires_grad


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FormatError, match="mask"):
        SparseLinear.from_linear(nn.Linear(6, 4), random_mask(6, 4))
    with pytest.raises(FormatError, match="packed weight"):
        SparseLinear.from_linear(nn.Linear(6, 4)).pack(EXAMPLES["dense-float32"])
