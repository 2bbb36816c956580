"""Proxies and sensitivities on a tiny model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gossamer.checkpoint.source import open_model
from gossamer.frontier.levels import ANCHORS, fitting, level
from gossamer.frontier.proxy import ProxyModel, scaled
from gossamer.frontier.sensitivity import (
    Losses,
    Sweep,
    discount_of,
    discounts,
    plan_sweep,
    sweep_blocks,
    sweep_outside,
)
from gossamer.frontier.state import State


def silent(_what: str, _done: int, _total: int) -> None:
    return


@pytest.fixture(scope="module")
def proxy(parent: Callable[[str], Path]) -> ProxyModel:
    ids_NL = torch.randint(0, 256, (2, 32), generator=torch.Generator().manual_seed(0))
    return ProxyModel(open_model(parent("llama")), ids_NL)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path, {})


def test_the_dense_model_diverges_from_itself_by_nothing(proxy: ProxyModel) -> None:
    assert proxy.kl() == pytest.approx(0.0, abs=1e-6)


def test_a_replaced_matrix_counts_and_is_put_back(proxy: ProxyModel) -> None:
    name = proxy.parts.all_linears[0]
    dense_OI = proxy.weight(name).clone()
    with proxy.replaced({name: torch.zeros_like(dense_OI)}):
        assert proxy.kl() > 1e-4
        assert torch.equal(proxy.weight(name), dense_OI)
    assert proxy.kl() == pytest.approx(0.0, abs=1e-6)
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        proxy.replaced({name: torch.zeros_like(dense_OI)}),
    ):
        raise RuntimeError("on purpose")
    assert torch.equal(proxy.module(name).weight.data, dense_OI)


def test_proxies_have_the_zeros_and_the_codes_of_their_level(proxy: ProxyModel) -> None:
    name = proxy.parts.all_linears[0]
    sparse_OI = proxy.cheap(name, level("sparse50-int4-g64"))
    assert float((sparse_OI == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    row = proxy.cheap(name, level("int3-g64"))[0]
    assert len(row.unique()) <= 8


def test_a_scaled_proxy_has_the_error_that_was_asked_for(proxy: ProxyModel) -> None:
    name = proxy.parts.all_linears[0]
    dense_OI, cheap_OI = proxy.weight(name), proxy.cheap(name, level("int3-g64"))
    half = proxy.error(name, scaled(dense_OI, cheap_OI, 0.5))
    assert half == pytest.approx(0.5 * proxy.error(name, cheap_OI), rel=1e-3)


def test_methods_lose_less_than_their_cheap_forms(proxy: ProxyModel, state: State) -> None:
    ids_NL = torch.randint(0, 256, (20, 32), generator=torch.Generator().manual_seed(1))
    discounts(proxy, ("int3-g64", "sparse50-int4-g64", "rtn4-g64"), ids_NL, state, silent)
    known = state.section("discounts")
    assert known.keys() == {"int3-g64", "sparse50-int4-g64", "rtn4-g64"}
    assert all(0 < value <= 1 for value in known.values())
    assert known["sparse50-int4-g64"] < 0.95
    assert all(seconds > 0 for seconds in state.section("solve_seconds").values())


def test_a_low_rank_part_counts_in_the_discount_alone(proxy: ProxyModel, state: State) -> None:
    ids_NL = torch.randint(0, 256, (20, 32), generator=torch.Generator().manual_seed(1))
    bases = ("int3-g64", "sparse50-int4-g64")
    discounts(proxy, (*bases, *(f"{base}-rank20" for base in bases)), ids_NL, state, silent)
    name = proxy.parts.all_linears[0]
    for base in bases:
        assert discount_of(f"{base}-rank20", state) < 0.95 * discount_of(base, state)
        same = proxy.cheap(name, level(base)), proxy.cheap(name, level(f"{base}-rank20"))
        assert torch.equal(*same)
    assert discount_of("int3-g32-rank20", state) == discount_of("int3-g64-rank20", state)


def test_each_part_is_measured_once_and_the_rest_follows_in_proportion(
    proxy: ProxyModel, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_outside(proxy, ["model.embed_tokens", "lm_head"], state, silent)
    sweep_blocks(proxy, Sweep(ANCHORS[:1], 1), state, silent, lambda: 1e9)
    linears = [name for block in proxy.parts.blocks for name in proxy.parts.linears(block)]
    assert sum(key.split()[0] in linears for key in state.section("kl")) == len(linears)
    losses = Losses(proxy, state)
    name = linears[0]
    kl, error = state.section("kl")[f"{name} int4-g64"]
    assert losses.of(name, "int4-g64") == kl
    assert losses.of(name, "int3-g64") == pytest.approx(
        kl * proxy.error(name, proxy.cheap(name, level("int3-g64"))) / error
    )
    assert losses.of(name, "int8-row") < losses.of(name, "int4-g64") < losses.of(name, "sparse70-int4-g64")
    monkeypatch.setattr(proxy, "kl", lambda *_: pytest.fail("measured again"))
    sweep_outside(proxy, ["model.embed_tokens", "lm_head"], state, silent)
    sweep_blocks(proxy, Sweep(ANCHORS[:1], 1), state, silent, lambda: 1e9)


def test_what_a_low_rank_part_gives_back_is_a_share_of_the_loss(proxy: ProxyModel, state: State) -> None:
    for option, discount in (("int3-g64", 0.5), ("int3-g64-rank6", 0.4)):
        state.put("discounts", option, discount)
    sweep_blocks(proxy, Sweep(ANCHORS[:1], 1), state, silent, lambda: 1e9)
    losses = Losses(proxy, state)
    for name in proxy.parts.linears(proxy.parts.blocks[0]):
        plain, both = (fitting(each, proxy.weight(name).shape[1]) for each in ("int3-g64", "int3-g64-rank6"))
        assert losses.of(name, both) == pytest.approx(0.8 * losses.of(name, plain))


def test_a_partial_pass_measures_what_a_whole_one_does(proxy: ProxyModel, state: State) -> None:
    sweep_blocks(proxy, Sweep(("int4-g64",), 1), state, silent, lambda: 1e9)
    name = proxy.parts.linears(proxy.parts.blocks[-1])[0]
    with proxy.replaced({name: proxy.cheap(name, level("int4-g64"))}):
        whole = proxy.kl()
    assert state.section("kl")[f"{name} int4-g64"][0] == pytest.approx(whole, rel=1e-3, abs=1e-7)


def test_losses_of_parts_nearly_add_up(proxy: ProxyModel, state: State) -> None:
    sweep_blocks(proxy, Sweep(("int4-g64",), 1), state, silent, lambda: 1e9)
    names = [key.split()[0] for key in state.section("kl")]
    weights = {
        name: proxy.cheap(name, level(key.split()[1]))
        for name, key in zip(names, state.section("kl"), strict=True)
    }
    with proxy.replaced(weights):
        together = proxy.kl()
    assert sum(kl for kl, _ in state.section("kl").values()) == pytest.approx(together, rel=0.5)


def test_blocks_that_were_skipped_take_after_their_neighbours(proxy: ProxyModel, state: State) -> None:
    sweep_blocks(proxy, Sweep(("int4-g64",), 2), state, silent, lambda: 1e9)
    first, second = proxy.parts.blocks
    assert all(key.startswith(first) for key in state.section("kl"))
    losses = Losses(proxy, state)
    for name in proxy.parts.linears(second):
        assert losses.of(name, fitting("int4-g64", proxy.weight(name).shape[1])) > 0


def test_a_sweep_is_as_thorough_as_time_allows() -> None:
    assert plan_sweep(100, 1.0, 1000.0) == Sweep(ANCHORS, 1)
    assert plan_sweep(100, 1.0, 100.0) == Sweep(ANCHORS[:1], 1)
    assert plan_sweep(100, 1.0, 25.0) == Sweep(ANCHORS[:1], 3)
