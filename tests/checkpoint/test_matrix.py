"""Weights read and written as [O, I], whatever holds them."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gossamer.checkpoint.architecture import Architecture, describe
from gossamer.checkpoint.matrix import Matrix, expert_matrices, matrix_of
from tests.models import EXPERT_KINDS, KINDS, tiny_experts, tiny_model


class Fused(nn.Module):
    """Experts in parameters of the given shapes; `declared` is what transformers marks a class with."""

    def __init__(self, declared: bool | None = None, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        if declared is not None:
            self.is_transposed = declared


def experts_of(model: nn.Module) -> tuple[Architecture, str, nn.Module]:
    """The parts of a model, and its first module of experts by name."""
    parts = describe(model)
    name = parts.matrix(parts.block_experts[parts.blocks[0]][0]).module
    return parts, name, model.get_submodule(name)


def output_of(kind: str, experts: nn.Module, x_TI: Tensor, expert: int) -> Tensor:
    """What the module computes where every token goes to one expert with weight 1."""
    if kind == "llama4":  # takes the tokens of each expert one after the other
        inputs = torch.zeros(4, *x_TI.shape)
        inputs[expert] = x_TI
        return experts(inputs.flatten(0, 1)).view(4, *x_TI.shape)[expert]
    chosen = torch.full((len(x_TI), 1), expert)
    return experts(x_TI, chosen, torch.ones(len(x_TI), 1))


def by_hand(
    kind: str, experts: nn.Module, x_TI: Tensor, up_OI: Tensor, down_OI: Tensor, expert: int
) -> Tensor:
    """The same from both matrices: x @ W.T, the gate between them."""
    inner = x_TI @ up_OI.T
    if kind == "gpt_oss":
        inner = experts._apply_gate(inner + experts.gate_up_proj_bias[expert])
        return inner @ down_OI.T + experts.down_proj_bias[expert]
    gate, up = inner.chunk(2, dim=-1)
    return (nn.functional.silu(gate) * up) @ down_OI.T


@pytest.mark.parametrize("kind", EXPERT_KINDS)
@torch.no_grad()
def test_the_matrices_of_an_expert_reproduce_what_its_module_computes(kind: str) -> None:
    model = tiny_experts(kind)
    parts, name, experts = experts_of(model)
    x_TI = torch.randn(5, 64)
    for expert in range(4):
        up, down = (parts.matrix(f"{name}.{expert}.{each}") for each in ("gate_up_proj", "down_proj"))
        assert up.shape[1] == down.shape[0] == 64 and up.shape[0] == 2 * down.shape[1]
        got = by_hand(kind, experts, x_TI, up.get(model), down.get(model), expert)
        torch.testing.assert_close(got, output_of(kind, experts, x_TI, expert), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", EXPERT_KINDS)
def test_a_written_expert_is_read_back_and_no_other_changes(kind: str) -> None:
    model = tiny_experts(kind)
    parts, name, experts = experts_of(model)
    before = copy.deepcopy(experts.state_dict())
    matrix = parts.matrix(f"{name}.2.down_proj")
    weight_OI = torch.randn(matrix.shape)
    matrix.put(model, weight_OI)
    assert torch.equal(matrix.get(model), weight_OI) and matrix.get(model).is_contiguous()
    for key, value in experts.state_dict().items():
        changed = {expert for expert in range(4) if not torch.equal(value[expert], before[key][expert])}
        assert changed == ({2} if key == "down_proj" else set())


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_is_read_and_written_as_outputs_by_inputs(kind: str) -> None:
    model = tiny_model(kind)
    parts = describe(model)
    for name, matrix in parts.matrices.items():
        module = model.get_submodule(name)
        weight_OI = matrix.get(model)
        assert weight_OI.shape == matrix.shape and weight_OI.is_contiguous() and not weight_OI.requires_grad
        if not isinstance(module, nn.Embedding):
            x_TI = torch.randn(3, matrix.shape[1])
            bias = 0.0 if module.bias is None else module.bias
            torch.testing.assert_close(module(x_TI), x_TI @ weight_OI.T + bias, atol=1e-5, rtol=1e-4)
        changed = torch.randn(matrix.shape)
        matrix.put(model, changed)
        assert torch.equal(matrix.get(model), changed)
        assert matrix.holder(model) is module.weight and not module.weight.requires_grad


def test_what_is_tied_follows_and_what_shared_the_values_keeps_them() -> None:
    model = tiny_model("qwen2")
    matrix = describe(model).matrix("model.embed_tokens")
    shared = model.lm_head.weight.data
    before = shared.clone()
    matrix.put(model, torch.zeros(matrix.shape))
    assert not model.lm_head.weight.any()
    assert torch.equal(shared, before)


def test_the_values_of_an_expert_that_others_share_stay_as_they_are() -> None:
    model = tiny_experts("mixtral")
    parts, name, experts = experts_of(model)
    shared = experts.down_proj.data
    before = shared.clone()
    parts.matrix(f"{name}.0.down_proj").put(model, torch.zeros(64, 96))
    assert torch.equal(shared, before)


def test_values_take_the_type_of_the_parameter() -> None:
    linear = nn.Linear(3, 2).bfloat16()
    matrix = matrix_of("x", nn.ModuleDict({"x": linear})["x"])
    matrix.put(nn.ModuleDict({"x": linear}), torch.full((2, 3), 1.0 + 2**-12))
    assert linear.weight.dtype == torch.bfloat16 and bool((linear.weight == 1.0).all())


def test_a_mask_is_turned_the_way_that_the_weight_is_held() -> None:
    mask_OI = torch.rand(4, 6) > 0.5
    matrix = matrix_of("c", Conv1D(4, 6))
    assert matrix == Matrix("c", "c.weight", (4, 6), transposed=True)
    assert torch.equal(matrix.as_stored(mask_OI), mask_OI.T)
    assert torch.equal(matrix.from_stored(matrix.as_stored(mask_OI)), mask_OI)


def test_a_handle_serves_a_block_on_its_own() -> None:
    model = tiny_model("gpt2")
    matrix = describe(model).matrix("transformer.h.1.mlp.c_fc")
    block = model.get_submodule("transformer.h.1")
    assert torch.equal(matrix.below("transformer.h.1").get(block), matrix.get(model))


def test_a_norm_or_a_convolution_has_no_handle() -> None:
    assert matrix_of("n", nn.LayerNorm(4)) is None
    assert matrix_of("c", nn.Conv1d(2, 2, 3)) is None


WIDTH, INNER = 8, 12
GATED = {"gate_up_proj": (3, 2 * INNER, WIDTH), "down_proj": (3, WIDTH, INNER)}
GATED_TURNED = {"gate_up_proj": (3, WIDTH, 2 * INNER), "down_proj": (3, INNER, WIDTH)}
UNGATED = {"up_proj": (3, INNER, WIDTH), "down_proj": (3, WIDTH, INNER)}


@pytest.mark.parametrize(
    ("declared", "shapes", "transposed"),
    [
        (None, GATED, False),
        (None, GATED_TURNED, True),
        (False, GATED, False),
        (True, GATED_TURNED, True),
        (False, UNGATED, False),
        (True, {"up_proj": (3, WIDTH, INNER), "down_proj": (3, INNER, WIDTH)}, True),
        (True, {"gate_up_proj": (3, 8, 8), "down_proj": (3, 4, 8)}, True),
    ],
)
def test_the_class_or_the_shapes_say_which_way_round_experts_are_held(
    declared: bool | None, shapes: dict[str, tuple[int, ...]], transposed: bool
) -> None:
    found = expert_matrices("e", Fused(declared, **shapes))
    assert len(found) == 6
    assert {matrix.transposed for matrix in found} == {transposed}
    into, out = found[0].shape, found[1].shape
    assert into[0] == (2 if "gate_up_proj" in shapes else 1) * out[1] and into[1] == out[0]


@pytest.mark.parametrize(
    ("declared", "shapes"),
    [
        (None, UNGATED),  # both ways round fit
        (None, {"gate_up_proj": (3, 8, 8), "down_proj": (3, 8, 4)}),  # a square matrix says nothing
        (None, {"gate_up_proj": (3, 8, 4), "down_proj": (3, 4, 4)}),
        (True, GATED),  # the class contradicts the shapes
        (False, GATED_TURNED),
        (None, {"gate_up_proj": (3, 24, 8), "down_proj": (2, 8, 12)}),  # experts without a partner
        (None, {"gate_up_proj": (24, 8), "down_proj": (8, 12)}),
        (None, {"weight": (3, 24, 8)}),
        (None, {"down_proj": (3, 8, 12)}),
    ],
)
def test_experts_that_may_be_held_either_way_are_not_guessed(
    declared: bool | None, shapes: dict[str, tuple[int, ...]]
) -> None:
    assert expert_matrices("e", Fused(declared, **shapes)) == ()
