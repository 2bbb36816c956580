"""A block of two models side by side: moments, residual streams, order of the linears."""

import pytest
import torch
from torch import nn

from gossamer.calibration import pairs
from gossamer.calibration.observe import BlockRunner, hidden_states
from gossamer.calibration.pairs import observe_pairs, parts, residual_after, run_dense, stages
from gossamer.calibration.statistics import Moments
from gossamer.checkpoint.architecture import describe
from tests.models import tiny_inputs, tiny_model


def pair(kind: str, noise: float = 0.1) -> tuple[BlockRunner, BlockRunner, str, list[str]]:
    """Two runners of the same model, the first with changed weights, after block 0; the name of block 1."""
    runners = []
    for changed in (True, False):
        model = tiny_model(kind)
        model.config.use_cache = False
        described = describe(model)
        stack = described.stacks[-1]
        if changed:
            torch.manual_seed(0)
            for name in described.linears(stack[0]):
                weight = model.get_submodule(name).weight
                weight.data += noise * weight.std() * torch.randn_like(weight)
        runner = BlockRunner(model, [tiny_inputs(kind, batch_size=n, seed=n) for n in (1, 3)])
        for earlier in described.stacks:
            for name in earlier if earlier is not stack else earlier[:1]:
                runner.finish(name, runner.run(name), earlier)
        runners.append(runner)
    return runners[0], runners[1], stack[1], list(described.linears(stack[1]))


def kinds_of(found: list[list[str]]) -> list[list[str]]:
    return [[name.rpartition(".")[2] for name in stage] for stage in found]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]),
        ("gpt2", [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]]),
    ],
)
def test_linears_that_share_an_input_are_one_stage_in_the_order_in_which_they_run(
    kind: str, expected: list[list[str]]
) -> None:
    here, _, block, linears = pair(kind)
    assert kinds_of(stages(here, block, linears[::-1])) == expected


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "opt", "t5"])
def test_what_is_missing_is_the_difference_of_the_streams_after_the_addition(kind: str) -> None:
    here, there, block, linears = pair(kind)
    added = 0
    for stage in stages(here, block, linears):
        moments = observe_pairs(here, there, block, linears, stage)
        assert set(moments) == set(stage)
        for name in stage:
            inputs, streams = by_hand(here, there, block, name)
            weight = matrix(there, name)
            drift = streams[1] - streams[0] if moments[name].wanted_OI is not None else 0.0
            added += moments[name].wanted_OI is not None
            lacks = inputs[1] @ weight.T + drift - inputs[0] @ weight.T
            expected = lacks.T @ inputs[0] / len(inputs[0])
            torch.testing.assert_close(moments[name].missing(weight, weight), expected, atol=1e-4, rtol=1e-3)
    assert added >= 2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", [["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]]),
        ("gpt2", [["c_attn", "c_proj"], ["c_fc", "c_proj"]]),
        ("bert", [["query", "key", "value", "dense"], ["dense", "dense"]]),
        ("t5", [["q", "k", "v", "o"], ["q", "k", "v", "o"], ["wi", "wo"]]),
        ("gemma3", [["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]]),
    ],
)
def test_parts_end_where_a_linear_joins_the_residual_stream(kind: str, expected: list[list[str]]) -> None:
    here, _, block, linears = pair(kind)
    found = parts(here, block, linears)
    assert kinds_of([names for names, _ in found]) == expected
    assert [until for _, until in found] == [names[-1] for names, _ in found[:-1]] + [None]


def test_the_residual_stream_after_attention_is_what_the_next_norm_sees_and_takes_gradients() -> None:
    here, _, block, _ = pair("llama")
    seen: list[torch.Tensor] = []
    norm = here.model.get_submodule(f"{block}.post_attention_layernorm")
    handle = norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    here.run(block)
    handle.remove()
    weight = here.model.get_submodule(f"{block}.self_attn.v_proj").weight.requires_grad_()
    for number, expected in enumerate(seen):
        stream = residual_after(here, block, f"{block}.self_attn.o_proj", number)
        torch.testing.assert_close(stream, expected)
        stream.square().sum().backward()
    assert bool(weight.grad.any())


def by_hand(here: BlockRunner, there: BlockRunner, block: str, name: str):
    """Inputs of a linear in both models, and the residual that its output is added to: the first input of its part."""
    inputs, streams = [], []
    for runner in (here, there):
        seen: list[torch.Tensor] = []
        before: list[torch.Tensor] = []
        sums: list[torch.Tensor] = []

        def note(_module, args, output, seen=seen, before=before) -> None:
            seen.append(args[0].flatten(0, -2))
            before.append(output)

        handle = runner.model.get_submodule(name).register_forward_hook(note)
        with Sums(before, sums):
            runner.run(block)
        handle.remove()
        inputs.append(torch.cat(seen))
        streams.append(torch.cat(sums) if sums else torch.zeros(()))
    return inputs, streams


class Sums(torch.utils._python_dispatch.TorchDispatchMode):
    """Finds, below torch's functions, what the last tensor of a list is added to."""

    def __init__(self, outputs: list[torch.Tensor], sums: list[torch.Tensor]) -> None:
        super().__init__()
        self.outputs, self.sums = outputs, sums

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.add.Tensor and self.outputs:
            last = self.outputs[-1]
            for own, other in (args[:2], args[1::-1]):
                same = isinstance(own, torch.Tensor) and own.data_ptr() == last.data_ptr()
                if same and isinstance(other, torch.Tensor) and other.shape == own.shape == last.shape:
                    self.sums.append(other.flatten(0, -2).clone())
        return func(*args, **(kwargs or {}))


def matrix(runner: BlockRunner, name: str) -> torch.Tensor:
    module = runner.model.get_submodule(name)
    weight = module.weight.detach()
    return weight if isinstance(module, nn.Linear) else weight.T


def test_equal_models_lack_nothing() -> None:
    here, there, block, linears = pair("llama", noise=0.0)
    for name, moments in observe_pairs(here, there, block, linears, linears[:3]).items():
        weight = matrix(here, name)
        assert float(moments.missing(weight, weight).abs().max()) < 1e-5


def test_moments_that_are_merged_equal_those_of_all_tokens() -> None:
    torch.manual_seed(0)
    x, dense, wanted = torch.randn(10, 4), torch.randn(10, 4), torch.randn(10, 3)
    whole, left, right = Moments(4), Moments(4), Moments(4)
    for moments, rows in ((whole, slice(0, 8)), (left, slice(0, 3)), (right, slice(3, 8))):
        moments.update_pair(x[rows], dense[rows])
    whole.update_wanted(x[8:], wanted[8:])
    right.update_wanted(x[8:], wanted[8:])
    left.merge(right)
    weight = torch.randn(3, 4)
    torch.testing.assert_close(left.missing(weight, weight), whole.missing(weight, weight))
    torch.testing.assert_close(left.value(), whole.value())


def test_nothing_is_left_on_the_model_when_a_run_was_cut_short() -> None:
    here, there, block, linears = pair("llama")
    observe_pairs(here, there, block, linears, linears[:1])
    for runner in (here, there):
        modules = list(runner.model.modules())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_what_the_dense_block_showed_serves_instead_of_running_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there, block, linears = pair("llama")
    returned, seen = run_dense(there, block, linears)
    expected = there.run(block)
    assert all(
        torch.equal(hidden_states(a), hidden_states(b)) for a, b in zip(returned, expected, strict=True)
    )
    again = observe_pairs(here, there, block, linears, linears)
    saved = observe_pairs(here, there, block, linears, linears, seen)
    for name, moments in again.items():
        weight = matrix(here, name)
        assert torch.equal(saved[name].missing(weight, weight), moments.missing(weight, weight))
    monkeypatch.setattr(pairs, "SEEN_BYTES", 1)
    assert run_dense(there, block, linears)[1] is None
