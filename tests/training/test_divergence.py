"""The divergence, its gradient, and the rows that do not count."""

import pytest
import torch

from gossamer.evaluation.quality.divergence import divergence as judged
from gossamer.training import divergence as module
from gossamer.training.divergence import divergence

T, V = 13, 50


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("chunk", [4 * V * 3, 1 << 20])
def test_value_and_gradient_are_those_of_autograd(
    temperature: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHED_BYTES", chunk)
    generator = torch.Generator().manual_seed(0)
    own = (3 * torch.randn(T, V, generator=generator)).requires_grad_()
    other, weight_T = 3 * torch.randn(T, V, generator=generator), torch.rand(T, generator=generator)
    weight_T[4] = 0
    p, q = (other / temperature).softmax(-1), (own / temperature).log_softmax(-1)
    wanted = temperature**2 * (weight_T * (p * (p.log() - q)).sum(-1)).sum()
    wanted.backward()
    again = own.detach().clone().requires_grad_()
    total = divergence(again, other.clone(), weight_T, temperature)
    torch.testing.assert_close(total, wanted)
    (total * 0.5).backward()
    assert own.grad is not None
    torch.testing.assert_close(again.grad, 0.5 * own.grad)


def test_without_a_gradient_the_teachers_logits_are_left_alone_and_the_value_is_that_of_evaluate() -> None:
    own, other = torch.randn(T, V), torch.randn(T, V)
    other[:, 7] = -torch.inf  # an entry that no token has
    before = other.clone()
    value = divergence(own, other, torch.full((T,), 1 / T), 1.0)
    assert torch.equal(other, before)
    torch.testing.assert_close(value, judged(before, own)[0].mean())


def test_logits_in_bfloat16_get_gradients_in_bfloat16() -> None:
    own = torch.randn(T, V).bfloat16().requires_grad_()
    divergence(own, torch.randn(T, V), torch.full((T,), 1 / T), 1.0).backward()
    assert own.grad is not None
    assert own.grad.dtype == torch.bfloat16
    assert bool(own.grad.any())
