"""Zeros that move: as many as before, where the form of a matrix has places for them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gossamer
from gossamer.checkpoint.manifest import read_manifest
from gossamer.checkpoint.source import open_model
from gossamer.data.tokens import Windows
from gossamer.errors import UsageError
from gossamer.evaluation.quality.divergence import compare
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.weight import PackedWeight
from gossamer.methods.solve.pattern import NM, Block, RowWindows, parse_pattern
from gossamer.training.enrol import enrol
from gossamer.training.loop import optimizer_of
from gossamer.training.moving import MOVING, Mover
from gossamer.training.places import grouped, nm_of, places_in
from gossamer.training.settings import TrainingSettings
from gossamer.training.text import read_text
from tests.conftest import read_packed, read_tensors
from tests.training.conftest import Folders
from tests.training.folders import GPTQ4, RECIPES, RTN8, compress_tiny

ASYMMETRIC = '  - {layers: "*", method: rtn, bits: 4, group_size: 32, symmetric: false}\n'
QUICK = TrainingSettings(length=32, batch=4, mask="anneal", learning_rate=2e-3, precision="float32")


def moved(folders: tuple[Path, Path], text: Path, out: Path, **given: Any) -> dict[str, Any]:
    parent, small = folders
    given = {"steps": 24, "settings": QUICK, **given}
    return gossamer.recover(small, parent=parent, text=text, out=out, **given).record


@given(
    st.integers(1, 5),
    st.integers(1, 67),
    st.sampled_from([None, 3, 4, 8, 12, 16]),
    st.booleans(),
    st.integers(0, 99),
)
def test_as_many_are_kept_in_each_group_and_they_are_the_largest(
    rows: int, inputs: int, window: int | None, streams: bool, seed: int
) -> None:
    places = grouped(inputs, window, streams)
    generator = torch.Generator().manual_seed(seed)
    score_OI = torch.rand(rows, inputs, generator=generator)
    mask_OI = torch.rand(rows, inputs, generator=generator) < 0.5
    new_OI = places.keep_largest(score_OI, mask_OI)
    for group_c in places.groups:
        old_Wc, new_Wc, score_Wc = (
            each_OI.reshape(-1, places.columns)[:, group_c] for each_OI in (mask_OI, new_OI, score_OI)
        )
        assert torch.equal(old_Wc.sum(1), new_Wc.sum(1))
        least_W = score_Wc.masked_fill(~new_Wc, 2.0).amin(1)
        assert bool((score_Wc.masked_fill(new_Wc, -1.0).amax(1) <= least_W).all())
    for start in range(0, inputs, window or inputs):
        old_Ow, new_Ow = (each_OI[:, start : start + (window or inputs)] for each_OI in (mask_OI, new_OI))
        assert torch.equal(old_Ow.sum(1), new_Ow.sum(1))
    odd_I = torch.arange(inputs) // 4 % 2 == 1
    if streams:
        assert torch.equal(mask_OI[:, odd_I].sum(1), new_OI[:, odd_I].sum(1))


PATTERNS = (
    "1:4",
    "2:4",
    "4:8",
    "8:16",
    "12:16",
    "3:5",
    f"rows {'1,2,4,0,' * 15}2:4",
    "block 4x4",
    "block 1x6",
    "row",
)


@given(st.sampled_from(PATTERNS), st.integers(0, 99))
def test_the_pattern_is_read_from_the_mask(text: str, seed: int) -> None:
    pattern = parse_pattern(text)
    score_OI = torch.rand(61, 120, generator=torch.Generator().manual_seed(seed))
    sparsity = pattern.sparsity if isinstance(pattern, NM | RowWindows) else 0.5
    mask_OI = pattern.keep_largest(score_OI, sparsity)
    places = places_in(mask_OI)
    if isinstance(pattern, Block):
        assert places is None
    else:
        assert places is not None
        assert places.pattern == (pattern.m if isinstance(pattern, NM | RowWindows) else None)


@given(st.sampled_from([0.03, 0.1, 0.3, 0.5, 0.7, 0.75, 0.9, 0.97]), st.integers(0, 99))
def test_a_mask_of_no_pattern_is_not_taken_for_one(density: float, seed: int) -> None:
    mask_OI = torch.rand(64, 128, generator=torch.Generator().manual_seed(seed)) < density
    assert places_in(mask_OI) is not None
    assert nm_of(mask_OI) is None


@pytest.mark.parametrize(
    ("pattern", "rounding"),
    [
        ("2:4", ""),
        ("4:8", ""),
        ("1:4", GPTQ4),
        ("2:4", ASYMMETRIC),
        ("block 4x4", ASYMMETRIC),
        ("block 4x4", RTN8),
    ],
)
def test_a_pattern_that_is_stored_in_another_form_is_kept(
    pattern: str, rounding: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparsity = ", sparsity: 0.5" if "block" in pattern else ""
    prune = f'  - {{layers: "*", method: magnitude, pattern: "{pattern}"{sparsity}}}\n'
    monkeypatch.setitem(RECIPES, "other form", prune + rounding)
    parent, small = compress_tiny("other form", tmp_path, text)
    packed = read_packed(small, read_manifest(small))
    assert any(each.meta()["format"] == "bitmask" for each in packed.values())
    record = moved((parent, small), text, tmp_path / "out")
    new = read_packed(tmp_path / "out", read_manifest(tmp_path / "out"))
    for name, each in packed.items():
        if "block" in pattern:
            assert torch.equal(new[name].mask(), each.mask())
        elif not each.mask().all():
            n, m = map(int, pattern.split(":"))
            assert int(new[name].mask().unflatten(1, (-1, m)).sum(2).max()) <= n
    if "block" in pattern:
        assert any(note.startswith("ZEROS DO NOT MOVE") for note in record["notes"])
    else:
        assert record["moved"]["moved"] > 0
        assert any("N:M" in note for note in record["notes"])


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("float", "anneal"), ("float", "admm"), ("half int4", "anneal"), ("half int4", "admm"),
        ("half asymmetric", "anneal"), ("2:4 int4", "anneal"), ("4:8 int8", "admm"), ("8:16", "anneal"),
        ("low rank int4", "anneal"),
    ],
)  # fmt: skip
def test_zeros_move_and_the_forms_and_bytes_stay(
    form: str, mode: str, folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders(form)
    record = moved((parent, small), text, tmp_path / "out", settings=replace(QUICK, mask=mode))
    assert record["held_out_kl"]["after"] < record["held_out_kl"]["before"]
    assert record["moved"]["mask"] == mode
    assert 0 < record["moved"]["moved"] < record["moved"]["of"]
    old, new = read_tensors(small), read_tensors(tmp_path / "out")
    assert {name: (each.dtype, each.shape) for name, each in old.items()} == {
        name: (each.dtype, each.shape) for name, each in new.items()
    }
    manifest = read_manifest(tmp_path / "out")
    before, after = read_packed(small, manifest), read_packed(tmp_path / "out", manifest)
    changed = 0
    for name, packed in after.items():
        own, other = (_pruned(each) for each in (packed, before[name]))
        assert torch.equal(own.mask().sum(1), other.mask().sum(1))
        assert not own.unpack()[~own.mask()].any()
        changed += int((own.mask() & ~other.mask()).sum())
    assert changed == record["moved"]["moved"]


def _pruned(packed: PackedWeight) -> PackedWeight:
    return packed.parts()["residual"] if isinstance(packed, LowRankWeight) else packed


def test_training_begins_at_the_folder_and_what_was_judged_is_what_is_written(
    folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders("half asymmetric")
    record = moved((parent, small), text, tmp_path / "out")
    words = read_text(open_model(small), [text], 32, 0, lambda *_: None)
    ids_NL = words.ids_NL[list(words.held_out)]
    cut = Windows(ids_NL, torch.ones_like(ids_NL), 32, "held out")
    dense = gossamer.load(parent, dtype=torch.float32).model
    for folder, when in ((small, "before"), (tmp_path / "out", "after")):
        figures = compare(gossamer.load(folder).model, dense, cut)
        assert record["held_out_kl"][when] == pytest.approx(figures.kl_mean, rel=1e-4)


def test_masks_stand_still_at_the_end_and_removed_weights_learn_no_more(folders: Folders) -> None:
    _parent, small = folders("half int4")
    student = enrol(open_model(small), "all", embeddings=False, rank=1, seed=0, moves=True)
    mover, optimizer = Mover(student, "anneal"), optimizer_of(student, QUICK)
    softness = []
    for step, fraction in enumerate((0.2, 0.4, MOVING, 0.9), 1):
        for _name, weight in mover.weights():
            weight.values_n.grad = torch.randn_like(weight.values_n)
        student.settle()
        mover.pull(fraction)
        optimizer.step()
        mover.move(optimizer, 8 * step, fraction)
        student.refresh()
        softness.append({weight.moving.soft for _name, weight in mover.weights() if weight.moving})
        if fraction == MOVING:
            masks = {name: weight.mask().clone() for name, weight in mover.weights()}
    assert [len(each) for each in softness] == [1, 1, 1, 1]
    assert [min(each) for each in softness] == sorted([min(each) for each in softness], reverse=True)
    assert softness[2] == softness[3] == {0.0}
    for name, weight in mover.weights():
        assert torch.equal(weight.mask(), masks[name])
        assert weight.values_n.grad is not None
        assert not weight.values_n.grad[~weight.mask().view(-1)].any()
        assert not weight.working_OI[~weight.mask()].any()


@pytest.mark.parametrize(("mode", "step"), [("anneal", 9), ("admm", 9), ("anneal", 18)])
def test_a_run_that_was_stopped_while_zeros_moved_goes_on_to_the_same_bytes(
    mode: str, step: int, folders: Folders, text: Path, tmp_path: Path
) -> None:
    settings, threads = replace(QUICK, mask=mode), torch.get_num_threads()

    def stop(what: str, done: int, _total: int) -> None:
        if what == "training, steps" and done == step:
            raise KeyboardInterrupt

    torch.set_num_threads(1)
    try:
        moved(folders("half int4"), text, tmp_path / "whole", settings=settings)
        with pytest.raises(KeyboardInterrupt):
            moved(folders("half int4"), text, tmp_path / "out", settings=settings, progress=stop)
        record = moved(folders("half int4"), text, tmp_path / "out", settings=settings, resume=True)
    finally:
        torch.set_num_threads(threads)
    assert record["resumed"] == 1
    whole, out = (tmp_path / name / "model.safetensors" for name in ("whole", "out"))
    assert whole.read_bytes() == out.read_bytes()


def test_blocks_stay_and_that_is_told(folders: Folders, text: Path, tmp_path: Path) -> None:
    record = moved(folders("block"), text, tmp_path / "out", steps=2)
    assert record["moved"] is None
    assert any(note.startswith("ZEROS DO NOT MOVE in model.layers.0") for note in record["notes"])


def test_zeros_of_a_folder_that_is_stored_dense_move_too(
    folders: Folders, text: Path, tmp_path: Path
) -> None:
    parent, small = folders("float")
    gossamer.export(small, tmp_path / "dense")
    record = moved((parent, tmp_path / "dense"), text, tmp_path / "out")
    assert record["moved"]["moved"] > 0
    old, new = read_tensors(tmp_path / "dense"), read_tensors(tmp_path / "out")
    for name, each in new.items():
        if "proj" in name:
            assert int((each == 0).sum()) >= int((old[name] == 0).sum())


def test_only_weights_that_are_trained_can_move() -> None:
    with pytest.raises(UsageError, match="--mask anneal: zeros move where weights are trained"):
        TrainingSettings(mask="anneal", train="lora")
    with pytest.raises(UsageError, match="--mask some: one of fixed, anneal, admm"):
        TrainingSettings(mask="some")  # type: ignore[arg-type]
