"""What gradients show of the linears, block by block, is what they show in one pass through the whole model."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gossamer.calibration.gradients import curvatures
from gossamer.calibration.observe import BlockRunner
from gossamer.checkpoint.architecture import describe
from tests.models import tiny_inputs, tiny_model


def in_one_pass(
    model: Any, batches: list[dict[str, Tensor]], linears: list[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums over tokens of (g_o x_i)^2 and of g_o^2 of each linear."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, args, output, name=name: seen.__setitem__(name, (args[0].detach(), output))
        )
        for name in linears
    ]
    for seed, batch in enumerate(batches):
        generator = torch.Generator().manual_seed(seed)
        returned = model(**batch)
        if hasattr(returned, "logits"):
            logits_TV = returned.logits.flatten(0, 1)
            labels = torch.multinomial(logits_TV.detach().softmax(-1), 1, generator=generator)[:, 0]
            loss = nn.functional.cross_entropy(logits_TV, labels, reduction="sum")
        else:
            loss = (returned[0] * torch.randn(returned[0].shape, generator=generator)).sum()
        gradients = torch.autograd.grad(loss, [seen[name][1] for name in linears])
        for name, gradient in zip(linears, gradients, strict=True):
            g_TO, x_TI = gradient.flatten(0, -2), seen[name][0].flatten(0, -2)
            every_TOI = (g_TO[:, :, None] * x_TI[:, None, :]).square()
            before = sums.get(name, (torch.zeros(1), torch.zeros(1)))
            sums[name] = (before[0] + every_TOI.sum(0), before[1] + g_TO.square().sum(0))
    for handle in handles:
        handle.remove()
    return sums


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "bert"])
def test_the_blocks_backwards_show_what_the_whole_model_does(kind: str) -> None:
    model = tiny_model(kind)
    model.config.use_cache = False
    parts = describe(model)
    (stack,) = parts.stacks
    batches = [tiny_inputs(kind, batch_size=n, seed=n) for n in (1, 2)]
    linears = [name for block in stack for name in parts.linears(block)]
    expected = in_one_pass(model, batches, linears)
    runner = BlockRunner(model, batches)
    returned = {}
    for block in stack:
        returned[block] = runner.run(block)
        runner.finish(block, returned[block], stack)
    found = {}
    for _block, own in curvatures(
        runner,
        stack,
        returned,
        lambda block: {name: model.get_submodule(name) for name in parts.linears(block)},
        seeds=range(2),
    ):
        found |= own
    assert found.keys() == expected.keys()
    assert not returned, "what the blocks gave is let go of"
    for name, (weight_OI, output_O) in expected.items():
        torch.testing.assert_close(found[name].weight_OI, weight_OI, rtol=1e-3, atol=1e-7, msg=name)
        torch.testing.assert_close(found[name].output_O, output_O, rtol=1e-3, atol=1e-7, msg=name)
