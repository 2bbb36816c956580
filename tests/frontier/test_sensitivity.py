"""Stand-ins and sensitivities on a tiny model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gossamer.checkpoint.source import open_model
from gossamer.frontier.levels import ANCHORS, fitting, level
from gossamer.frontier.proxy import StandIn, scaled
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
def standin(parent: Callable[[str], Path]) -> StandIn:
    ids_NL = torch.randint(0, 256, (2, 32), generator=torch.Generator().manual_seed(0))
    return StandIn(open_model(parent("llama")), ids_NL)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path, {})


def test_the_dense_model_diverges_from_itself_by_nothing(standin: StandIn) -> None:
    assert standin.kl() == pytest.approx(0.0, abs=1e-6)


def test_a_replaced_matrix_counts_and_is_put_back(standin: StandIn) -> None:
    name = standin.parts.all_linears[0]
    dense_OI = standin.weight(name).clone()
    with standin.replaced({name: torch.zeros_like(dense_OI)}):
        assert standin.kl() > 1e-4
        assert torch.equal(standin.weight(name), dense_OI)
    assert standin.kl() == pytest.approx(0.0, abs=1e-6)
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        standin.replaced({name: torch.zeros_like(dense_OI)}),
    ):
        raise RuntimeError("on purpose")
    assert torch.equal(standin.module(name).weight.data, dense_OI)


def test_stand_ins_have_the_zeros_and_the_codes_of_their_level(standin: StandIn) -> None:
    name = standin.parts.all_linears[0]
    sparse_OI = standin.cheap(name, level("sparse50-int4-g64"))
    assert float((sparse_OI == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    row = standin.cheap(name, level("int3-g64"))[0]
    assert len(row.unique()) <= 8


def test_a_scaled_stand_in_has_the_error_that_was_asked_for(standin: StandIn) -> None:
    name = standin.parts.all_linears[0]
    dense_OI, cheap_OI = standin.weight(name), standin.cheap(name, level("int3-g64"))
    half = standin.error(name, scaled(dense_OI, cheap_OI, 0.5))
    assert half == pytest.approx(0.5 * standin.error(name, cheap_OI), rel=1e-3)


def test_methods_lose_less_than_their_cheap_forms(standin: StandIn, state: State) -> None:
    ids_NL = torch.randint(0, 256, (20, 32), generator=torch.Generator().manual_seed(1))
    discounts(standin, ("int3-g64", "sparse50-int4-g64", "rtn4-g64"), ids_NL, state, silent)
    known = state.section("discounts")
    assert known.keys() == {"int3-g64", "sparse50-int4-g64", "rtn4-g64"}
    assert all(0 < value <= 1 for value in known.values())
    assert known["sparse50-int4-g64"] < 0.95
    assert all(seconds > 0 for seconds in state.section("solve_seconds").values())


def test_a_low_rank_part_counts_in_the_discount_alone(standin: StandIn, state: State) -> None:
    ids_NL = torch.randint(0, 256, (20, 32), generator=torch.Generator().manual_seed(1))
    bases = ("int3-g64", "sparse50-int4-g64")
    discounts(standin, (*bases, *(f"{base}-rank20" for base in bases)), ids_NL, state, silent)
    name = standin.parts.all_linears[0]
    for base in bases:
        assert discount_of(f"{base}-rank20", state) < 0.95 * discount_of(base, state)
        same = standin.cheap(name, level(base)), standin.cheap(name, level(f"{base}-rank20"))
        assert torch.equal(*same)
    assert discount_of("int3-g32-rank20", state) == discount_of("int3-g64-rank20", state)


def test_each_part_is_measured_once_and_the_rest_follows_in_proportion(
    standin: StandIn, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_outside(standin, ["model.embed_tokens", "lm_head"], state, silent)
    sweep_blocks(standin, Sweep(ANCHORS[:1], 1), state, silent, lambda: 1e9)
    linears = [name for block in standin.parts.blocks for name in standin.parts.linears(block)]
    assert sum(key.split()[0] in linears for key in state.section("kl")) == len(linears)
    losses = Losses(standin, state)
    name = linears[0]
    kl, error = state.section("kl")[f"{name} int4-g64"]
    assert losses.of(name, "int4-g64") == kl
    assert losses.of(name, "int3-g64") == pytest.approx(
        kl * standin.error(name, standin.cheap(name, level("int3-g64"))) / error
    )
    assert losses.of(name, "int8-row") < losses.of(name, "int4-g64") < losses.of(name, "sparse70-int4-g64")
    monkeypatch.setattr(standin, "kl", lambda *_: pytest.fail("measured again"))
    sweep_outside(standin, ["model.embed_tokens", "lm_head"], state, silent)
    sweep_blocks(standin, Sweep(ANCHORS[:1], 1), state, silent, lambda: 1e9)


def test_what_a_low_rank_part_gives_back_is_a_share_of_the_loss(standin: StandIn, state: State) -> None:
    for option, discount in (("int3-g64", 0.5), ("int3-g64-rank6", 0.4)):
        state.put("discounts", option, discount)
    sweep_blocks(standin, Sweep(ANCHORS[:1], 1), state, silent, lambda: 1e9)
    losses = Losses(standin, state)
    for name in standin.parts.linears(standin.parts.blocks[0]):
        plain, both = (
            fitting(each, standin.weight(name).shape[1]) for each in ("int3-g64", "int3-g64-rank6")
        )
        assert losses.of(name, both) == pytest.approx(0.8 * losses.of(name, plain))


def test_a_partial_pass_measures_what_a_whole_one_does(standin: StandIn, state: State) -> None:
    sweep_blocks(standin, Sweep(("int4-g64",), 1), state, silent, lambda: 1e9)
    name = standin.parts.linears(standin.parts.blocks[-1])[0]
    with standin.replaced({name: standin.cheap(name, level("int4-g64"))}):
        whole = standin.kl()
    assert state.section("kl")[f"{name} int4-g64"][0] == pytest.approx(whole, rel=1e-3, abs=1e-7)


def test_losses_of_parts_nearly_add_up(standin: StandIn, state: State) -> None:
    sweep_blocks(standin, Sweep(("int4-g64",), 1), state, silent, lambda: 1e9)
    names = [key.split()[0] for key in state.section("kl")]
    weights = {
        name: standin.cheap(name, level(key.split()[1]))
        for name, key in zip(names, state.section("kl"), strict=True)
    }
    with standin.replaced(weights):
        together = standin.kl()
    assert sum(kl for kl, _ in state.section("kl").values()) == pytest.approx(together, rel=0.5)


def test_blocks_that_were_skipped_take_after_their_neighbours(standin: StandIn, state: State) -> None:
    sweep_blocks(standin, Sweep(("int4-g64",), 2), state, silent, lambda: 1e9)
    first, second = standin.parts.blocks
    assert all(key.startswith(first) for key in state.section("kl"))
    losses = Losses(standin, state)
    for name in standin.parts.linears(second):
        assert losses.of(name, fitting("int4-g64", standin.weight(name).shape[1])) > 0


def test_a_sweep_is_as_thorough_as_time_allows() -> None:
    assert plan_sweep(100, 1.0, 1000.0) == Sweep(ANCHORS, 1)
    assert plan_sweep(100, 1.0, 100.0) == Sweep(ANCHORS[:1], 1)
    assert plan_sweep(100, 1.0, 25.0) == Sweep(ANCHORS[:1], 3)
