"""Short forward passes run torch on one thread, and leave everything as they found it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from gossamer.layers.step_threads import STEP_TOKENS, all_threads, quiet_steps


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Seeing(nn.Module):
    """Remembers with how many threads it ran."""

    def forward(self, input_ids: Tensor | None = None, fail: bool = False) -> int:
        if fail:
            raise ZeroDivisionError
        return torch.get_num_threads()


@pytest.fixture
def model() -> Seeing:
    seeing = Seeing()
    quiet_steps(seeing)
    return seeing


@pytest.mark.parametrize(("tokens", "threads"), [(1, 1), (STEP_TOKENS, 1), (STEP_TOKENS + 1, 2)])
def test_few_tokens_run_on_one_thread_and_many_on_all(tokens: int, threads: int, model: Seeing) -> None:
    ids = torch.zeros(1, tokens, dtype=torch.int64)
    assert model(ids) == threads
    assert model(input_ids=ids) == threads
    assert torch.get_num_threads() == 2


def test_the_number_of_threads_is_put_back_after_an_error(model: Seeing) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            model(torch.zeros(1, 1), fail=True)
        assert torch.get_num_threads() == 2
    assert model(torch.zeros(1, 1)) == 1
    assert torch.get_num_threads() == 2


def test_an_error_before_the_forward_does_no_harm(model: Seeing) -> None:
    def refuse(_module: nn.Module, _args: object) -> None:
        raise ZeroDivisionError

    handle = model.register_forward_pre_hook(refuse, prepend=True)
    with pytest.raises(ZeroDivisionError):
        model(torch.zeros(1, 1))
    handle.remove()
    assert model(torch.zeros(1, 1)) == 1
    assert torch.get_num_threads() == 2


def test_a_call_without_ids_runs_as_it_is(model: Seeing) -> None:
    assert model() == 2
    assert model(input_ids=None) == 2


def test_a_model_whose_packed_modules_were_replaced_runs_on_all_threads_again(model: Seeing) -> None:
    assert model(torch.zeros(1, 4, dtype=torch.int64)) == 1
    all_threads(model)
    assert model(torch.zeros(1, 4, dtype=torch.int64)) == 2
    all_threads(nn.Identity())
