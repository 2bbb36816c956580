"""Training a block to return what the dense one returned."""

import pytest
import torch
from torch import nn

from gossamer.calibration.observe import BlockRunner, hidden_states
from gossamer.checkpoint.architecture import describe
from gossamer.methods.reconstruct import TIMED_STEPS, Reconstruct, reconstruct
from tests.models import tiny_inputs, tiny_model


def pruned_block(kind: str):
    """A runner of a model whose block 0 has lost half of its weights, their masks, and what the dense block gives."""
    model = tiny_model(kind)
    model.config.use_cache = False
    parts = describe(model)
    block = parts.stacks[-1][0]
    runner = BlockRunner(model, [tiny_inputs(kind, batch_size=2, seed=seed) for seed in range(9)])
    for stack in parts.stacks[:-1]:
        for name in stack:
            runner.finish(name, runner.run(name), stack)
    wanted = [hidden_states(returned) for returned in runner.run(block)]
    masks = {}
    for name in parts.linears(block):
        weight = model.get_submodule(name).weight
        masks[name] = weight.abs() > weight.abs().median()
        weight.data *= masks[name]
        weight.requires_grad_(False)
    return runner, block, wanted, masks


def trained(runner: BlockRunner, masks: dict[str, torch.Tensor]) -> dict[nn.Parameter, torch.Tensor]:
    return {runner.model.get_submodule(name).weight: mask for name, mask in masks.items()}


def error(runner: BlockRunner, block: str, wanted) -> float:
    pairs = zip(runner.run(block), wanted, strict=True)
    return sum(float((hidden_states(output) - target).square().mean()) for output, target in pairs)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "t5"])
def test_the_block_comes_closer_and_its_zeros_stay(kind: str) -> None:
    runner, block, wanted, masks = pruned_block(kind)
    before = error(runner, block, wanted)
    result = reconstruct(
        runner, block, wanted, trained(runner, masks), Reconstruct(epochs=6, learning_rate=3e-3)
    )
    assert error(runner, block, wanted) < 0.9 * before
    assert result.after < 0.98 * result.before
    for name, mask in masks.items():
        weight = runner.model.get_submodule(name).weight
        assert not bool(weight[~mask].any())
        assert not weight.requires_grad
        assert weight.grad is None


def test_training_that_makes_things_worse_is_undone() -> None:
    runner, block, wanted, masks = pruned_block("llama")
    before = {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}
    result = reconstruct(
        runner, block, wanted, trained(runner, masks), Reconstruct(epochs=1, learning_rate=1.0)
    )
    assert result.after == result.before
    for name, tensor in runner.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_two_runs_give_the_same_weights() -> None:
    results = []
    for _ in range(2):
        runner, block, wanted, masks = pruned_block("llama")
        reconstruct(runner, block, wanted, trained(runner, masks), Reconstruct(epochs=2, learning_rate=1e-3))
        results.append({name: runner.model.get_submodule(name).weight.clone() for name in masks})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_training_is_cut_to_the_time_given(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *args: (steps.append(1), step(*args)))
    runner, block, wanted, masks = pruned_block("llama")
    reconstruct(runner, block, wanted, trained(runner, masks), Reconstruct(epochs=1000), seconds=0.3)
    assert TIMED_STEPS <= len(steps) < 1000


def test_what_others_share_with_the_block_is_not_changed() -> None:
    runner, block, wanted, masks = pruned_block("llama")
    shared = runner.model.get_submodule(block).state_dict()
    before = {name: tensor.clone() for name, tensor in shared.items()}
    result = reconstruct(
        runner, block, wanted, trained(runner, masks), Reconstruct(epochs=2, learning_rate=3e-3)
    )
    assert result.after < result.before
    for name, tensor in shared.items():
        assert torch.equal(tensor, before[name]), name
