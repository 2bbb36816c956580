"""Running a model block by block, and what is seen on the way: the same as in the model as a whole."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gossamer.calibration.observe import BlockRunner, observed
from gossamer.calibration.statistics import AbsMax, Gram, InputNorm
from gossamer.checkpoint.architecture import Architecture, describe
from gossamer.errors import CalibrationError
from tests.models import KINDS, tiny_inputs, tiny_model


def batches(kind: str) -> list[dict[str, Tensor]]:
    return [tiny_inputs(kind, batch_size=1, seed=1), tiny_inputs(kind, batch_size=3, seed=2)]


def ready(kind: str) -> tuple[PreTrainedModel, Architecture]:
    model = tiny_model(kind)
    model.config.use_cache = False
    return model, describe(model)


def run_all(model: nn.Module, parts: Architecture, given: list[dict[str, Tensor]]) -> list[Any]:
    runner = BlockRunner(model, given)
    for stack in parts.stacks:
        for name in stack:
            runner.finish(name, runner.run(name), stack)
    return list(runner.outputs())


def is_untouched(model: nn.Module) -> bool:
    hooks = any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    return not hooks and not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_block_by_block_gives_the_outputs_of_the_whole_model(kind: str) -> None:
    model, parts = ready(kind)
    with torch.inference_mode():
        expected = [model(**batch).logits for batch in batches(kind)]
    got = run_all(model, parts, batches(kind))
    for output, logits in zip(got, expected, strict=True):
        assert output.logits.std() > 0.01
        torch.testing.assert_close(output.logits, logits, atol=1e-5, rtol=1e-5)
    assert is_untouched(model)


@pytest.mark.parametrize("kind", KINDS)
def test_finished_blocks_need_no_weights_and_later_ones_are_not_run(kind: str) -> None:
    model, parts = ready(kind)
    with torch.inference_mode():
        expected = model(**batches(kind)[0]).logits
    runner = BlockRunner(model, batches(kind)[:1])
    for stack in parts.stacks:
        for name in stack:
            waiting = [other for other in parts.blocks if other != name]
            kept = {other: model.get_submodule(other) for other in waiting}
            for other in waiting:
                model.set_submodule(other, _Poison(kept[other]))
            returned = runner.run(name)
            for other in waiting:
                model.set_submodule(other, kept[other])
            runner.finish(name, returned, stack)
    got = next(runner.outputs()).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


class _Poison(nn.Module):
    """Looks like a block, and must never run its own forward."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["_block"] = block

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_block"], name)

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        raise AssertionError("a block that was not asked for has run")


def test_a_changed_block_changes_what_the_next_one_sees() -> None:
    model, parts = ready("llama")
    with torch.no_grad():
        model.get_submodule(parts.blocks[0]).mlp.down_proj.weight.zero_()
    with torch.inference_mode():
        expected = model(**batches("llama")[1]).logits
    got = run_all(model, parts, batches("llama"))[1].logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_block_that_the_model_never_runs_is_named() -> None:
    model, parts = ready("llama")
    model.model.layers = nn.ModuleList(model.model.layers)
    model.model.config.num_hidden_layers = 1
    with pytest.raises(CalibrationError, match=parts.blocks[1].replace(".", r"\.")):
        BlockRunner(model, batches("llama")).run(parts.blocks[1])
    assert is_untouched(model)


# ---- observing --------------------------------------------------------------------------------------------


def linears_of(
    model: nn.Module, parts: Architecture, block: str, kind: type
) -> dict[str, tuple[nn.Module, type]]:
    return {name: (model.get_submodule(name), kind) for name in parts.linears(block)}


def test_query_key_and_value_share_one_statistic_and_others_have_their_own() -> None:
    model, parts = ready("llama")
    with observed(linears_of(model, parts, "model.layers.0", Gram)) as statistics, torch.inference_mode():
        for batch in batches("llama"):
            model(**batch)
    by_name = {name.rpartition(".")[2]: statistic for name, statistic in statistics.items()}
    assert by_name["q_proj"] is by_name["k_proj"] is by_name["v_proj"]
    assert by_name["gate_proj"] is by_name["up_proj"]
    assert len({id(each) for each in by_name.values()}) == 4
    assert by_name["q_proj"].num_tokens == 4 * 12


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "t5", "whisper"])
def test_a_statistic_equals_one_computed_directly_from_the_inputs(kind: str) -> None:
    model, parts = ready(kind)
    block = parts.blocks[-1]
    seen: dict[str, list[Tensor]] = {name: [] for name in parts.linears(block)}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, args: seen[name].append(args[0].reshape(-1, args[0].shape[-1]).clone())

    handles = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in seen]
    with torch.inference_mode():
        for batch in batches(kind):
            model(**batch)
    for handle in handles:
        handle.remove()
    for statistic_class in (Gram, InputNorm, AbsMax):
        runner = BlockRunner(model, batches(kind))
        for stack in parts.stacks:
            for name in stack:
                with observed(linears_of(model, parts, name, statistic_class)) as statistics:
                    returned = runner.run(name)
                runner.finish(name, returned, stack)
        assert set(statistics) == set(seen)
        for name, inputs in seen.items():
            x_TI = torch.cat(inputs).double()
            expected = {
                Gram: lambda x: x.T @ x / len(x),
                InputNorm: lambda x: x.square().mean(0).sqrt(),
                AbsMax: lambda x: x.abs().amax(0),
            }[statistic_class](x_TI)
            assert statistics[name].num_tokens == len(x_TI)
            torch.testing.assert_close(statistics[name].value().double(), expected, atol=1e-4, rtol=1e-4)


def test_two_linears_on_equal_but_distinct_inputs_have_two_statistics() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    with observed({"one": (one, Gram), "two": (two, Gram)}) as statistics:
        x = torch.randn(3, 4)
        one(x)
        two(x.clone())
    assert statistics["one"] is not statistics["two"]
    torch.testing.assert_close(statistics["one"].value(), statistics["two"].value())


def test_different_statistics_of_one_input_are_kept_apart() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    with observed({"one": (one, Gram), "two": (two, InputNorm)}) as statistics:
        x = torch.randn(3, 4)
        one(x)
        two(x)
    assert type(statistics["one"]) is Gram
    assert type(statistics["two"]) is InputNorm


def test_the_hooks_are_gone_afterwards_also_after_an_exception() -> None:
    model, parts = ready("llama")
    linears = linears_of(model, parts, "model.layers.0", Gram)
    with observed(linears):
        assert not is_untouched(model)
    assert is_untouched(model)
    with pytest.raises(ZeroDivisionError), observed(linears):
        raise ZeroDivisionError
    assert is_untouched(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_with_nan_or_infinity_name_the_layer(value: float) -> None:
    model, parts = ready("llama")
    model.model.layers[0].mlp.register_forward_pre_hook(lambda _m, args: (args[0] * value,))
    runner = BlockRunner(model, batches("llama"))
    with (
        pytest.raises(CalibrationError, match=r"^model\.layers\.0\.mlp\.gate_proj: .*NaN"),
        observed(linears_of(model, parts, "model.layers.0", Gram)),
    ):
        runner.run("model.layers.0")
    assert not any("forward" in module.__dict__ for module in model.modules())
