"""Squared gradients of a linear's outputs, block by block, are those of the whole model at once."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gossamer.calibration.gradients import output_gradients
from gossamer.calibration.observe import BlockRunner
from gossamer.checkpoint.architecture import describe
from tests.models import tiny_inputs, tiny_model


def squared_gradients(model: Any, batches: list[dict[str, Tensor]], linears: list[str]) -> dict[str, Tensor]:
    """Mean over tokens of the squared gradient by each output, in one pass through the whole model."""
    generator = torch.Generator().manual_seed(0)
    outputs: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: outputs.__setitem__(name, output)
        )
        for name in linears
    ]
    num_tokens = 0
    for batch in batches:
        returned = model(**batch)
        if hasattr(returned, "logits"):
            logits_TV = returned.logits.flatten(0, 1)
            labels = torch.multinomial(logits_TV.detach().softmax(-1), 1, generator=generator)[:, 0]
            loss = nn.functional.cross_entropy(logits_TV, labels, reduction="sum")
        else:
            loss = (returned[0] * torch.randn(returned[0].shape, generator=generator)).sum()
        gradients = torch.autograd.grad(loss, [outputs[name] for name in linears])
        for name, gradient in zip(linears, gradients, strict=True):
            sums[name] = sums.get(name, torch.zeros(1)) + gradient.flatten(0, -2).square().sum(0)
        num_tokens += batch["input_ids"].numel()
    for handle in handles:
        handle.remove()
    return {name: total / num_tokens for name, total in sums.items()}


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "bert"])
def test_the_blocks_backwards_give_the_gradients_of_the_whole_model(kind: str) -> None:
    model = tiny_model(kind)
    model.config.use_cache = False
    parts = describe(model)
    (stack,) = parts.stacks
    batches = [tiny_inputs(kind, batch_size=n, seed=n) for n in (1, 2)]
    linears = [name for block in stack for name in parts.linears(block)]
    expected = squared_gradients(model, batches, linears)
    runner = BlockRunner(model, batches)
    returned = {}
    for block in stack:
        returned[block] = runner.run(block)
        runner.finish(block, returned[block], stack)
    found: dict[str, Tensor] = {}
    for _block, norms in output_gradients(
        runner,
        stack,
        returned,
        lambda block: {name: model.get_submodule(name) for name in parts.linears(block)},
    ):
        found |= {name: norm.mean_square() for name, norm in norms.items()}
    assert found.keys() == expected.keys()
    assert not returned, "what the blocks gave is let go of"
    for name, expected_O in expected.items():
        torch.testing.assert_close(found[name], expected_O, rtol=1e-4, atol=1e-9, msg=name)
