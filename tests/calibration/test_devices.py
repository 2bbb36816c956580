"""Statistics, gradients and batches stay where the model's inputs are, and are there what they are on the CPU."""

import pytest
import torch
from torch import Tensor, nn

from gossamer.calibration.batches import model_batches
from gossamer.calibration.gradients import Curvature, curvatures
from gossamer.calibration.merge import merged
from gossamer.calibration.observe import BlockRunner, observed
from gossamer.calibration.pairs import observe_pairs, parts, residual_after, run_dense, stages
from gossamer.calibration.statistics import AbsMax, Gram, InputNorm, Moments, Statistic
from gossamer.checkpoint.architecture import Architecture, describe
from gossamer.distributed.processes import Processes
from tests.away import away
from tests.models import tiny_inputs, tiny_model

CPU = torch.device("cpu")


def filled(kind: type[Statistic], device: torch.device) -> Statistic:
    """A statistic that has seen tokens, in two objects that were merged and then exchanged with no other process."""
    x_TI = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    both = [kind(8, device), kind(8, device)]
    for each, part_TI in zip(both, x_TI.to(device).split(25), strict=True):
        if isinstance(each, Moments):
            each.update_pair(part_TI, 2 * part_TI)
            each.update_wanted(part_TI, part_TI[:, :3])
        else:
            each.update(part_TI)
    both[0].merge(both[1])
    both[0].merge_across(Processes())
    return both[0]


@pytest.mark.parametrize("kind", [InputNorm, Gram, Moments, AbsMax])
def test_a_statistic_is_kept_on_the_device_of_its_inputs(kind: type[Statistic]) -> None:
    expected = filled(kind, CPU)
    with away() as device:
        found = filled(kind, device)
        held = {key: value for key, value in vars(found).items() if isinstance(value, Tensor)}
        assert held
        assert {value.device for value in held.values()} == {device}
        for key, value in held.items():
            assert torch.equal(value.cpu(), getattr(expected, key))
        assert torch.equal(found.value().cpu(), expected.value())
        if isinstance(found, Moments) and isinstance(expected, Moments):
            weight_OI = torch.ones(3, 8)
            missing_OI = found.missing(weight_OI.to(device), weight_OI.to(device))
            assert torch.equal(missing_OI.cpu(), expected.missing(weight_OI, weight_OI))


def prepared(kind: str, device: torch.device) -> tuple[BlockRunner, Architecture]:
    model = tiny_model(kind).to(device)
    model.config.use_cache = False
    ids_NL = tiny_inputs("llama", batch_size=2, seed=1)["input_ids"].to(device)
    return BlockRunner(model, model_batches(model, ids_NL, [])), describe(model)


def gram_of(kind: str, device: torch.device) -> dict[str, Tensor]:
    """The inputs of the linears of the first block."""
    runner, parts = prepared(kind, device)
    block = parts.stacks[0][0]
    linears = {name: (runner.model.get_submodule(name), Gram) for name in parts.linears(block)}
    with observed(linears) as statistics:
        runner.run(block)
    whole = merged(Processes(), statistics, device)
    return {name: each.value() for name, each in whole.items()}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "t5", "whisper"])
def test_blocks_are_observed_where_the_model_is(kind: str) -> None:
    expected = gram_of(kind, CPU)
    with away() as device:
        found = gram_of(kind, device)
        assert found.keys() == expected.keys()
        for name, gram_II in found.items():
            assert gram_II.device == device
            torch.testing.assert_close(gram_II.cpu(), expected[name], msg=name)


def pairs_of(device: torch.device) -> dict[str, Tensor]:
    """The moments of the first stage of a block, and the residual stream after its first part."""
    runner, architecture = prepared("llama", device)
    dense, _ = prepared("llama", device)
    block = architecture.blocks[0]
    linears = architecture.linears(block)
    _, seen = run_dense(dense, block, linears)
    stage = stages(runner, block, linears)[1]
    moments = observe_pairs(runner, dense, block, linears, stage, seen)
    until = parts(runner, block, linears)[0][1]
    assert until is not None
    with torch.no_grad():
        residual = residual_after(runner, block, until, 0)
    wanted = {name: each.wanted_OI for name, each in moments.items() if each.wanted_OI is not None}
    assert wanted
    return {"residual": residual, **wanted}


def test_pairs_are_observed_where_the_models_are() -> None:
    expected = pairs_of(CPU)
    with away() as device:
        found = pairs_of(device)
        assert found.keys() == expected.keys()
        for name, values in found.items():
            assert values.device == device
            torch.testing.assert_close(values.cpu(), expected[name], msg=name)


def curvatures_of(kind: str, device: torch.device) -> dict[str, Curvature]:
    runner, architecture = prepared(kind, device)
    (stack,) = architecture.stacks
    returned = {}
    for block in stack:
        returned[block] = runner.run(block)
        runner.finish(block, returned[block], stack)

    def linears(block: str) -> dict[str, nn.Module]:
        return {name: runner.model.get_submodule(name) for name in architecture.linears(block)}

    found: dict[str, Curvature] = {}
    for _, own in curvatures(runner, stack, returned, linears, range(len(runner.batches))):
        found |= own
    return found


def test_gradients_draw_the_same_labels_on_every_device() -> None:
    expected = curvatures_of("llama", CPU)
    with away() as device:
        found = curvatures_of("llama", device)
        assert found.keys() == expected.keys()
        for name, each in found.items():
            assert each.weight_OI.device == device
            torch.testing.assert_close(each.weight_OI.cpu(), expected[name].weight_OI, msg=name)
            torch.testing.assert_close(each.output_O.cpu(), expected[name].output_O, msg=name)
