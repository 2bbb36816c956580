"""The engine's limits, its sampling, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gossamer.errors import CheckpointError, UnsupportedModelError, UsageError
from gossamer.runtime import memory
from gossamer.runtime.choose import choose_engine
from gossamer.runtime.engine import Engine, Sampling
from tests.models import save_tiny
from tests.runtime.engines import exact, text_ids

DRAWS = 200


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("engine") / "llama"
    save_tiny("llama", folder)
    return exact(folder, cache_tokens=128)


def drawn(engine: Engine, **settings: Any) -> set[int]:
    """The tokens that come first after one prompt, over many seeds."""
    prompt = text_ids(6)
    return {
        next(engine.generate(prompt, 1, sampling=Sampling(**{"temperature": 1.0, **settings, "seed": seed})))
        for seed in range(DRAWS)
    }


def probabilities(engine: Engine, temperature: float = 1.0) -> torch.Tensor:
    return (engine.logits(text_ids(6))[-1] / temperature).softmax(-1)


def test_top_k_draws_among_the_k_most_likely(engine: Engine) -> None:
    likeliest = set(probabilities(engine).topk(3).indices.tolist())
    assert drawn(engine, top_k=3, temperature=5.0) == likeliest


def test_top_p_draws_among_the_fewest_tokens_of_that_total(engine: Engine) -> None:
    ordered = probabilities(engine, 3.0).sort(descending=True)
    count = int((ordered.values.cumsum(0) < 0.2).sum()) + 1
    assert drawn(engine, top_p=0.2, temperature=3.0) <= set(ordered.indices[:count].tolist())


def test_min_p_leaves_out_what_is_much_less_likely_than_the_likeliest(engine: Engine) -> None:
    chances = probabilities(engine)
    kept = (chances >= 0.7 * chances.max()).nonzero().flatten().tolist()
    assert 1 < len(kept) < 20
    assert drawn(engine, min_p=0.7) == set(kept)


def test_draws_follow_the_probabilities(engine: Engine) -> None:
    likeliest = int(probabilities(engine).argmax())
    prompt = text_ids(6)
    hits = sum(
        next(engine.generate(prompt, 1, sampling=Sampling(temperature=1.0, seed=seed))) == likeliest
        for seed in range(DRAWS)
    )
    expected = float(probabilities(engine).max()) * DRAWS
    assert abs(hits - expected) < 4 * expected**0.5 + 4


def test_a_repetition_penalty_makes_what_was_seen_less_likely(engine: Engine) -> None:
    prompt = text_ids(6)
    plain = list(engine.generate(prompt, 24))
    fined = list(engine.generate(prompt, 24, sampling=Sampling(repetition_penalty=1e6)))
    assert len(set(fined)) == 24
    assert not set(fined) & set(prompt.tolist())
    assert fined != plain


def test_a_stop_token_comes_last(engine: Engine) -> None:
    written = list(engine.generate(text_ids(6), 12))
    stop = written[4]
    assert list(engine.generate(text_ids(6), 12, stops=[stop])) == written[: written.index(stop) + 1]


def test_blocks_of_the_cache_come_back(engine: Engine) -> None:
    for _ in range(10):  # ten times what the cache holds
        assert len(list(engine.generate(text_ids(90), 3))) == 3
    stream = engine.generate(text_ids(90), 30)
    next(stream)
    stream.close()  # nobody listens any more
    number = engine.add(text_ids(90), 30)
    engine.step()
    engine.cancel(number)
    engine.cancel(number)
    assert not engine.busy
    assert len(list(engine.generate(text_ids(90), 30))) == 30


def test_prompts_wait_for_room_and_then_run(engine: Engine) -> None:
    numbers = [engine.add(text_ids(60, seed), 4) for seed in range(4)]
    finished = []
    while engine.busy:
        finished += [event.sequence for event in engine.step() if event.finished]
    assert sorted(finished) == numbers


def in_turn(engine: Engine, prompts: list[torch.Tensor], tokens: int = 6) -> tuple[list[list[int]], int]:
    """Each prompt added once the one before writes; their texts, and the most blocks that were in use."""
    written: dict[int, list[int]] = {}
    waiting, most = list(prompts), 0
    while waiting or engine.busy:
        if waiting:
            written[engine.add(waiting.pop(0), tokens)] = []
        for event in engine.step():
            written[event.sequence].append(event.token)
        most = max(most, engine.num_blocks - engine._native.num_free_blocks())
    return list(written.values()), most


def test_prompts_that_begin_alike_share_blocks_and_write_what_they_write_alone(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model")
    engine = exact(tmp_path / "model", cache_tokens=1024)
    start = text_ids(70)
    prompts = [start, torch.cat([start, text_ids(20, 1)]), torch.cat([start[:40], text_ids(50, 2)]), start]
    alone = [list(engine.generate(prompt, 6)) for prompt in prompts]
    together, most = in_turn(engine, prompts)
    assert together == alone
    assert most == 3 + 3 + 3 + 3 - 2 - 1 - 2  # whole blocks of 32 tokens that were read before
    assert engine._native.num_free_blocks() == engine.num_blocks


def test_what_was_shared_counts_as_seen_by_the_penalty(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model")
    engine = exact(tmp_path / "model", cache_tokens=1024)
    fined = Sampling(repetition_penalty=1e6)
    alone = list(engine.generate(text_ids(70), 6, sampling=fined))
    engine.add(text_ids(70), 20)
    engine.step()
    number = engine.add(text_ids(70), 6, sampling=fined)
    assert [e.token for _ in range(20) for e in engine.step() if e.sequence == number] == alone


def test_a_shared_block_is_copied_before_one_of_its_sequences_writes_to_it(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model")
    native = exact(tmp_path / "model", cache_tokens=256)._native
    ids, none = text_ids(64).to(torch.int32), torch.empty(0, dtype=torch.int32)
    first, second = (native.open(0.0, 0, 1.0, 0.0, 1.0, 0) for _ in range(2))
    expected = [*native.step([(first, ids, True)]), *native.generate(first, 8, none)]
    native.share(second, first, ids)
    native.truncate(second, 40)
    native.step(
        [(second, text_ids(24, 1).to(torch.int32), True)]
    )  # 40 to 64: other tokens where the first one reads
    native.truncate(first, 63)
    assert [*native.step([(first, ids[63:], True)]), *native.generate(first, 8, none)] == expected
    for tokens in (ids[:33], torch.full((32,), 9999, dtype=torch.int32), text_ids(96).to(torch.int32)):
        third = native.open(0.0, 0, 1.0, 0.0, 1.0, 0)
        with pytest.raises(ValueError, match="expected"):
            native.share(third, first, tokens)


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"min_p": 2.0}, {"repetition_penalty": 0.0}],
)
def test_sampling_that_cannot_be_meant_is_refused(engine: Engine, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        engine.generate(text_ids(4), 2, sampling=Sampling(**settings))


def test_prompts_that_cannot_be_run_are_refused(engine: Engine) -> None:
    for ids, tokens in (([], 1), ([-1], 1), ([260], 1), ([1] * 250, 7)):
        with pytest.raises(UsageError):
            engine.generate(ids, tokens)
    with pytest.raises(UsageError, match="cache of"):
        engine.add(text_ids(120), 60)
    with pytest.raises(UsageError, match="positions"):
        engine.logits([1] * 257)


def test_a_cache_that_does_not_fit_is_refused_before_it_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny("llama", tmp_path / "model")
    monkeypatch.setattr("gossamer.runtime.engine.available_bytes", lambda: 1_000_000)
    with pytest.raises(UsageError, match="int8 cache"):
        Engine.open(tmp_path / "model", cache_tokens=100_000)
    assert Engine.open(tmp_path / "model").num_blocks >= 1  # the default takes what there is


def test_the_memory_that_is_free_is_known_here() -> None:
    free = memory.available_bytes()
    assert free is None or free > 0


@pytest.mark.parametrize("settings", [{"activations": "int4"}, {"cache": "float32"}, {"cache_tokens": 0},
                                      {"threads": 5000}, {"step_tokens": 0}])  # fmt: skip
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    save_tiny("llama", tmp_path / "model")
    with pytest.raises(UsageError):
        Engine.open(tmp_path / "model", **settings)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("changes", [{"num_attention_heads": 8}, {"num_key_value_heads": 4}, {"num_hidden_layers": 3},
                                     {"intermediate_size": 128}, {"vocab_size": 300}, {"head_dim": 32}])  # fmt: skip
def test_weights_that_do_not_fit_the_configuration_are_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = tmp_path / "model"
    save_tiny("llama", folder)
    change_config(folder, **changes)
    with pytest.raises(CheckpointError):
        Engine.open(folder)


def test_hostile_packed_tensors_are_refused(compressed, tmp_path: Path) -> None:
    case = compressed("llama")
    file = "model.safetensors"
    tensors = load_file(case.folder / file)
    offsets = next(name for name in tensors if name.endswith(".offsets"))
    mask = offsets.removesuffix("offsets") + "mask"
    hostile = {
        "offsets": {offsets: tensors[offsets] + 1000},
        "mask": {mask: torch.full_like(tensors[mask], -1)},
        "shape": {mask: tensors[mask][:1].clone()},
        "type": {mask: tensors[mask].to(torch.int32)},
    }
    for name, changes in hostile.items():
        folder = tmp_path / name
        folder.mkdir()
        for each in case.folder.iterdir():
            (folder / each.name).write_bytes(each.read_bytes())
        save_file(tensors | changes, folder / file)
        with pytest.raises(CheckpointError):
            Engine.open(folder)


def test_a_forked_child_is_told_to_open_its_own_engine(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model")
    code = f"""
import os
from gossamer.errors import RunError
from gossamer.runtime.engine import Engine
engine = Engine.open({str(tmp_path / "model")!r}, threads=2)
engine.logits([1, 2, 3])
child = os.fork()
if child == 0:
    try:
        engine.logits([1, 2, 3])
    except RunError as error:
        assert "another process" in str(error)
        del engine
        os._exit(0)
    os._exit(1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert (
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120, check=False).returncode == 0
    )


def test_the_engine_is_chosen_by_family(parent, tmp_path: Path) -> None:
    assert choose_engine(parent("llama")) == "native"
    assert choose_engine(parent("llama"), "torch") == "torch"
    assert choose_engine(parent("opt")) == "torch"
    with pytest.raises(UnsupportedModelError, match="opt"):
        choose_engine(parent("opt"), "native")
    with pytest.raises(UsageError):
        choose_engine(parent("llama"), "other")
    save_tiny("llama", tmp_path / "odd", head_dim=24)
    assert choose_engine(tmp_path / "odd") == "torch"
