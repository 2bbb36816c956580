"""A block that is run again with what its finished parts returned gives the very same."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from gossamer.calibration import replay as module
from gossamer.calibration.observe import BlockRunner, hidden_states
from gossamer.calibration.pairs import stages
from gossamer.calibration.replay import Replay
from gossamer.checkpoint.architecture import describe
from tests.models import tiny_inputs, tiny_model


def ready(kind: str) -> tuple[BlockRunner, str, list[list[str]]]:
    model = tiny_model(kind)
    model.config.use_cache = False
    parts = describe(model)
    block = parts.stacks[0][0]
    runner = BlockRunner(model, [tiny_inputs(kind, batch_size=n, seed=n) for n in (1, 3)])
    return runner, block, stages(runner, block, parts.linears(block))


def change(model: nn.Module, names: list[str]) -> None:
    for name in names:
        model.get_submodule(name).weight.data.mul_(0.9)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "opt", "gemma3", "qwen3"])
def test_what_a_block_returns_is_the_same_as_without(kind: str) -> None:
    runner, block, order = ready(kind)
    replay = Replay(runner.model, block, [name for stage in order for name in stage])
    for stage in order:
        change(runner.model, stage)
        replay.finish(stage)
        expected = runner.run(block)
        got = runner.run(block, replay.running)
        assert all(
            torch.equal(hidden_states(a), hidden_states(b)) for a, b in zip(got, expected, strict=True)
        )
    for each in runner.model.modules():
        assert not each._forward_hooks
        assert "forward" not in each.__dict__


class Counted:
    """Counts the calls of linears that really ran."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        self.calls = dict.fromkeys(names, 0)
        for name in names:
            linear = model.get_submodule(name)
            linear.register_forward_hook(partial(self.note, name))

    def note(self, name: str, linear: nn.Module, _args: object, _output: object) -> None:
        self.calls[name] += "forward" not in linear.__dict__


def test_a_finished_part_runs_once_for_each_batch_and_one_that_may_change_always() -> None:
    runner, block, order = ready("llama")
    counted = Counted(runner.model, [name for stage in order for name in stage])
    replay = Replay(runner.model, block, list(counted.calls))
    attention, rest = order[0] + order[1], order[2] + order[3]
    replay.finish(attention)
    for _ in range(3):
        runner.run(block, replay.running)
    assert {counted.calls[name] for name in attention} == {2}, "once for each of two batches"
    assert {counted.calls[name] for name in rest} == {6}


def test_what_runs_after_a_linear_that_may_change_is_not_replayed() -> None:
    runner, block, order = ready("llama")
    counted = Counted(runner.model, [name for stage in order for name in stage])
    replay = Replay(runner.model, block, list(counted.calls))
    replay.finish([name for stage in order[1:] for name in stage])
    for _ in range(3):
        runner.run(block, replay.running)
    assert set(counted.calls.values()) == {6}


def test_what_does_not_fit_in_memory_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    runner, block, order = ready("llama")
    counted = Counted(runner.model, [name for stage in order for name in stage])
    replay = Replay(runner.model, block, list(counted.calls))
    replay.finish(list(counted.calls))
    for _ in range(2):
        runner.run(block, replay.running)
    assert set(counted.calls.values()) == {4}


class Twice(nn.Module):
    """A block that uses its first linear again behind its second."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(self.two(self.one(x)))


def test_a_part_that_runs_twice_is_never_replayed_and_what_it_gave_is_not_changed_by_the_model() -> None:
    model = nn.ModuleDict({"block": Twice()})
    replay = Replay(model, "block", ["block.one", "block.two"])
    replay.finish(["block.one"])
    x = torch.randn(3, 4)
    for factor in (1.0, 2.0):
        model["block"].two.weight.data.mul_(factor)
        expected = model["block"](x)
        for _ in range(2):
            with replay.running(0):
                assert torch.equal(model["block"](x), expected)
    other = Replay(model, "block", ["block.one", "block.two"])
    other.finish(["block.one", "block.two"])
    with torch.inference_mode():
        with other.running(0):
            kept = model["block"].two(x)
            expected = kept.clone()
            kept.add_(1.0)
        with other.running(0):
            assert torch.equal(model["block"].two(x), expected)
