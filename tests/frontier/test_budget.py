"""Budgets: what is understood, and what is said about the rest."""

import math

import pytest

from gossamer.errors import UsageError
from gossamer.frontier.budget import parse_budget


@pytest.mark.parametrize(
    ("text", "key", "limit"),
    [
        ("size=60MB", "size", 60e6),
        ("size=1.5GiB", "size", 1.5 * 2**30),
        (" size = 800 KB ", "size", 800e3),
        ("latency=5ms", "latency", 5.0),
        ("latency=250us", "latency", 0.25),
        ("perplexity=+5%", "perplexity", 1.05),
    ],
)
def test_a_budget_is_read_in_its_unit(text: str, key: str, limit: float) -> None:
    budget = parse_budget(text)
    assert (budget.key, budget.limit) == (key, pytest.approx(limit))
    assert parse_budget(budget.text) == budget


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sizes=60MB", ("unknown key 'sizes'", "Did you mean 'size'", "latency=5ms")),
        ("60MB", ("unknown key", "size=60MB")),
        ("size=60", ("expected a number and KB or MB", "size=60MB")),
        ("size=+60MB", ("size=60MB",)),
        ("size=nanMB", ("expected a number",)),
        ("size=0MB", ("more than 0",)),
        ("latency=5MB", ("us or ms or s",)),
        ("perplexity=5%", ("perplexity=+5%",)),
        ("perplexity=-5%", ("perplexity=+5%",)),
        ("", ("unknown key",)),
    ],
)
def test_anything_else_is_refused_with_the_right_form(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    for word in words:
        assert word in str(caught.value)


def test_each_key_limits_its_own_figure() -> None:
    assert parse_budget("size=2MB").allows(1.9e6, None, 99.0)
    assert not parse_budget("size=2MB").allows(2.1e6, 0.1, 1.0)
    assert not parse_budget("latency=5ms").allows(1.0, None, 1.0)
    assert parse_budget("latency=5ms").allows(9e9, 5.0, 9.0)
    assert parse_budget("perplexity=+5%").allows(9e9, None, 1.0499)
    assert parse_budget("perplexity=+5%").largest_loss == pytest.approx(math.log(1.05))
