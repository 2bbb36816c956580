"""A PEFT adapter in a folder: what is added where, what arrives, what stays, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import gossamer
from gossamer.checkpoint.manifest import add_measurement, read_manifest
from gossamer.errors import CheckpointError, GossamerError, UsageError
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.weight import PackedWeight
from tests.conftest import read_packed, read_tensors
from tests.models import save_tiny, tiny_inputs
from tests.training.adapters import factors, write_adapter
from tests.training.conftest import Folders

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
SHAPES = {Q: (64, 64), DOWN: (64, 96)}
PREFIX = "base_model.model."


def product(tensors: dict[str, Tensor], name: str, scaling: float) -> Tensor:
    """B A, by the formula."""
    left, right = (tensors[f"{PREFIX}{name}.lora_{factor}.weight"].double() for factor in "BA")
    return (scaling * left @ right).float()


def packed_of(folder: Path) -> dict[str, PackedWeight]:
    return read_packed(folder, read_manifest(folder))


def sparse_part(packed: PackedWeight) -> PackedWeight:
    return packed.parts()["residual"] if isinstance(packed, LowRankWeight) else packed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- what is added ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    ["float", "8:16", "block", "half int4", "2:4 int4", "4:8 int8", "int4 asymmetric", "low rank", "low rank int4"],
)  # fmt: skip
def test_kept_weights_get_the_product_rounded_to_their_own_grid_and_zeros_stay(
    form: str, folders: Folders, tmp_path: Path
) -> None:
    _, small = folders(form)
    tensors = factors(SHAPES, size=0.03)
    adapter = write_adapter(tmp_path / "adapter", tensors, target_modules=["q_proj", "down_proj"])
    result = gossamer.merge(small, adapter, out=tmp_path / "out")
    before, after = packed_of(small), packed_of(tmp_path / "out")
    for name, old in before.items():
        new = after[name]
        assert new.meta() == old.meta()
        if name not in SHAPES:
            assert all(torch.equal(new.tensors()[key], each) for key, each in old.tensors().items())
            continue
        old, new = sparse_part(old), sparse_part(new)
        mask = old.mask()
        wanted = old.unpack() + product(tensors, name, 16 / 4)
        assert torch.equal(new.mask(), mask)
        assert not new.unpack()[~mask].any()
        same, nearest = new.unpack(), rounded(old, wanted)
        within = in_range(old, wanted)
        assert within.float().mean() > 0.1
        assert torch.equal(same[mask & within], nearest[mask & within])
        errors = [float((each - wanted)[mask & ~within].square().sum()) for each in (same, nearest)]
        assert errors[0] <= errors[1]
    assert result.record["removed_weights"] == sum(
        int((~sparse_part(before[name]).mask()).sum()) for name in SHAPES
    )
    assert [entry["total"] for entry in read_manifest(tmp_path / "out")["merged"]] == [result.record["total"]]


def in_range(old: PackedWeight, wanted: Tensor) -> Tensor:
    """Which weights are in groups whose scales need not change: all, where there are none."""
    quantized = old.quantized()
    if quantized is None:
        return torch.ones_like(old.mask())
    scale, half = quantized.scale_OG[:, :, None], 2 ** (quantized.bits - 1)
    groups = wanted.masked_fill(~old.mask(), 0).view(len(wanted), -1, quantized.group_size)
    if quantized.minimum_OG is None:
        steps, low = groups / scale.where(scale != 0, 1.0), -half
    else:
        steps, low = (groups - quantized.minimum_OG[:, :, None]) / scale.where(scale != 0, 1.0), 0
    inside = (steps.round() >= low) & (steps.round() <= low + 2 * half - 1)
    inside |= ~old.mask().view_as(inside)
    return inside.all(2, keepdim=True).expand_as(groups).reshape(wanted.shape)


def rounded(old: PackedWeight, wanted: Tensor) -> Tensor:
    """The nearest values that a weight's float type, or its grid of scales that stay, has."""
    quantized = old.quantized()
    if quantized is None:
        return wanted.bfloat16().float()
    scale = quantized.scale_OG.repeat_interleave(quantized.group_size, 1)
    unit = scale.where(scale != 0, 1.0)
    if quantized.minimum_OG is None:
        half = 2 ** (quantized.bits - 1)
        return (wanted / unit).round().clamp(-half, half - 1) * scale
    minimum = quantized.minimum_OG.repeat_interleave(quantized.group_size, 1)
    return ((wanted - minimum) / unit).round().clamp(0, 2**quantized.bits - 1) * scale + minimum


def test_factors_alone_become_the_nearest_product_of_their_rank(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("factors")
    tensors = factors(SHAPES)
    gossamer.merge(small, write_adapter(tmp_path / "adapter", tensors), out=tmp_path / "out")
    for name in SHAPES:
        old, new = packed_of(small)[name], packed_of(tmp_path / "out")[name]
        assert isinstance(old, LowRankWeight)
        wanted = old.unpack() + product(tensors, name, 4.0)
        u, s, v = torch.linalg.svd(wanted)
        rank = old.factors().rank
        best = (u[:, :rank] * s[:rank]) @ v[:rank]
        torch.testing.assert_close(new.unpack(), best, rtol=0, atol=2e-3 * float(best.abs().max()))


def test_logits_are_those_of_the_adapter_beside_the_sparse_model(folders: Folders, tmp_path: Path) -> None:
    """Where nothing is pruned, the merged folder does what PEFT does: W x + b + B (A x) alpha / r."""
    parent, _ = folders("float")
    dense = gossamer.load(parent, dtype=torch.float32).model
    dense.save_pretrained(tmp_path / "dense")
    tensors = factors(SHAPES)
    gossamer.merge(tmp_path / "dense", write_adapter(tmp_path / "adapter", tensors), out=tmp_path / "out")
    for name in SHAPES:
        left, right = (tensors[f"{PREFIX}{name}.lora_{factor}.weight"] for factor in "BA")

        def beside(_module: Any, given: Any, y: Tensor, left: Tensor = left, right: Tensor = right) -> Tensor:
            return y + 4.0 * functional.linear(functional.linear(given[0], right), left)

        dense.get_submodule(name).register_forward_hook(beside)
    ids = tiny_inputs("llama")
    merged = gossamer.load(tmp_path / "out", dtype=torch.float32).model
    with torch.no_grad():
        torch.testing.assert_close(merged(**ids).logits, dense(**ids).logits, rtol=1e-3, atol=1e-4)


def test_a_linear_that_is_held_as_inputs_by_outputs_gets_the_same_product(
    folders: Folders, tmp_path: Path
) -> None:
    _, small = folders("float", "gpt2")
    name = "transformer.h.0.mlp.c_fc"
    tensors = factors({name: (256, 64)})
    adapter = write_adapter(tmp_path / "adapter", tensors, fan_in_fan_out=True)
    gossamer.merge(small, adapter, out=tmp_path / "out")
    old, new = packed_of(small)[name], packed_of(tmp_path / "out")[name]
    wanted = torch.where(old.mask(), old.unpack() + product(tensors, name, 4.0), 0).bfloat16().float()
    assert torch.equal(new.unpack(), wanted)


def test_ranks_and_scalings_follow_the_configuration(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("float")
    tensors = {**factors({Q: (64, 64)}, rank=2), **factors({DOWN: (64, 96)}, rank=8)}
    adapter = write_adapter(
        tmp_path / "adapter", tensors, r=2, lora_alpha=6, use_rslora=True,
        rank_pattern={r"layers\.1\.mlp\.down_proj": 8}, alpha_pattern={"down_proj": 10},
    )  # fmt: skip
    result = gossamer.merge(small, adapter, out=tmp_path / "out")
    found = {name: each["scaling"] for name, each in result.record["matrices"].items()}
    assert found == {Q: pytest.approx(6 / 2**0.5), DOWN: pytest.approx(10 / 8**0.5)}
    old, new = packed_of(small)[DOWN], packed_of(tmp_path / "out")[DOWN]
    wanted = torch.where(old.mask(), old.unpack() + product(tensors, DOWN, 10 / 8**0.5), 0)
    torch.testing.assert_close(new.unpack(), wanted, rtol=2**-8, atol=1e-6)


def test_biases_and_modules_that_were_trained_whole_take_their_places(
    folders: Folders, tmp_path: Path
) -> None:
    _, small = folders("half int4", "opt")
    q = "model.decoder.layers.0.self_attn.q_proj"
    head = torch.randn(64, generator=torch.Generator().manual_seed(1))
    tensors = factors({q: (64, 64)})
    tensors[f"{PREFIX}{q}.base_layer.bias"] = torch.arange(64.0)
    tensors[f"{PREFIX}model.decoder.final_layer_norm.weight"] = head
    adapter = write_adapter(
        tmp_path / "adapter", tensors, bias="all", modules_to_save=["final_layer_norm", "classifier"]
    )
    result = gossamer.merge(small, adapter, out=tmp_path / "out")
    new = read_tensors(tmp_path / "out")
    assert torch.equal(new[f"{q}.bias"].float(), torch.arange(64.0))
    assert torch.allclose(new["model.decoder.final_layer_norm.weight"].float(), head, rtol=1e-2)
    assert any("no weights for classifier" in note for note in result.record["notes"])
    assert result.record["replaced"] == ["model.decoder.final_layer_norm.weight", f"{q}.bias"]


def test_a_whole_matrix_takes_the_place_of_a_packed_one_on_its_grid(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("half int4")
    old = packed_of(small)["lm_head"]
    wanted = old.unpack() * 0.9
    adapter = write_adapter(
        tmp_path / "adapter", {f"{PREFIX}lm_head.weight": wanted}, modules_to_save=["lm_head"]
    )
    gossamer.merge(small, adapter, out=tmp_path / "out")
    assert torch.equal(packed_of(tmp_path / "out")["lm_head"].unpack(), rounded(old, wanted))


def test_a_pruned_folder_that_is_stored_dense_keeps_its_zeros(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("float")
    gossamer.export(small, tmp_path / "pruned", dtype="bfloat16")
    tensors = factors(SHAPES)
    gossamer.merge(tmp_path / "pruned", write_adapter(tmp_path / "adapter", tensors), out=tmp_path / "out")
    old, new = read_tensors(tmp_path / "pruned"), read_tensors(tmp_path / "out")
    assert set(old) == set(new)
    for name, tensor in old.items():
        matrix = name.removesuffix(".weight")
        if matrix in SHAPES:
            added = tensor.float() + product(tensors, matrix, 4.0)
            tensor = torch.where(tensor != 0, added, 0).bfloat16()
        assert torch.equal(new[name], tensor), name
    assert json.loads((tmp_path / "out" / "merged.json").read_text())["adapter"]["name"] == "adapter"


def test_an_adapter_that_gossamer_exported_is_read(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("low rank")
    gossamer.export(small, tmp_path / "apart", format="peft")
    gossamer.merge(tmp_path / "apart", tmp_path / "apart" / "adapter", out=tmp_path / "out")
    new = read_tensors(tmp_path / "out")
    for name, packed in packed_of(small).items():
        assert isinstance(packed, LowRankWeight)
        residual = packed.parts()["residual"]
        wanted = torch.where(residual.unpack() != 0, packed.unpack(), 0)
        torch.testing.assert_close(new[f"{name}.weight"], wanted, rtol=1e-3, atol=1e-4)


# ---- what arrives -------------------------------------------------------------------------------------------------


def test_shares_are_those_of_the_formulas(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("half int4")
    tensors = factors(SHAPES, size=0.15)
    result = gossamer.merge(small, write_adapter(tmp_path / "adapter", tensors), out=tmp_path / "out")
    before, after = packed_of(small), packed_of(tmp_path / "out")
    wanted, moved, whole = [], [], 0.0
    for name in SHAPES:
        change, mask = product(tensors, name, 4.0).double(), before[name].mask()
        wanted.append(change[mask])
        moved.append((after[name].unpack() - before[name].unpack()).double()[mask])
        whole += float(change.square().sum())
        share = result.record["matrices"][name]
        assert share["changed_weights"] == int((moved[-1] != 0).sum())
        assert share["kept_weights"] == int(mask.sum())
        assert share["dropped"] == pytest.approx(
            1 - float(wanted[-1].square().sum() / change.square().sum()), abs=1e-5
        )
    one, other, total = torch.cat(wanted), torch.cat(moved), result.record["total"]
    assert total["arrived"] == pytest.approx(float(one @ other / (one @ one)), rel=1e-4)
    assert total["cosine"] == pytest.approx(float(functional.cosine_similarity(one, other, 0)), rel=1e-4)
    assert total["relative_error"] == pytest.approx(float((other - one).norm() / one.norm()), rel=1e-4)
    assert total["dropped"] == pytest.approx(1 - float(one @ one) / whole, abs=1e-5)


@pytest.mark.parametrize("form", ["half int4", "int4 asymmetric", "low rank int4"])
def test_a_small_change_is_lost_in_codes_loudly_and_with_the_parent_arrives_on_the_average(
    form: str, folders: Folders, tmp_path: Path
) -> None:
    parent, small = folders(form)
    adapter = write_adapter(tmp_path / "adapter", factors(SHAPES, size=0.012))
    told: list[str] = []
    lost = gossamer.merge(
        small, adapter, out=tmp_path / "lost", progress=lambda what, _done, _total: told.append(what)
    )
    assert lost.record["total"]["arrived"] < 0.1
    assert any("LITTLE ARRIVED" in line and "--parent" in line for line in told)
    better = gossamer.merge(small, adapter, out=tmp_path / "better", parent=parent)
    assert 0.8 < better.record["total"]["arrived"] < 1.2
    assert not any("LITTLE" in note for note in better.record["notes"])
    assert better.record["parent"]["name"] == "tiny-llama"
    for name in SHAPES:
        old, new = packed_of(small)[name], packed_of(tmp_path / "better")[name]
        assert torch.equal(old.mask(), new.mask())


@pytest.mark.parametrize(
    ("form", "least"), [("half int4", 0.9), ("4:8 int8", 0.99), ("int4 asymmetric", 0.9)]
)
def test_where_the_sum_leaves_the_range_of_the_codes_groups_get_another_one(
    form: str, least: float, folders: Folders, tmp_path: Path
) -> None:
    _, small = folders(form)
    adapter = write_adapter(tmp_path / "adapter", factors(SHAPES, size=0.3))
    total = gossamer.merge(small, adapter, out=tmp_path / "out").record["total"]
    assert total["arrived"] > least
    assert total["cosine"] > least
    for name in SHAPES:
        old, new = packed_of(small)[name], packed_of(tmp_path / "out")[name]
        assert new.meta() == old.meta()
        assert torch.equal(new.mask(), old.mask())


def test_an_adapter_of_zeros_changes_nothing_and_says_so(folders: Folders, tmp_path: Path) -> None:
    parent, small = folders("half int4")
    adapter = write_adapter(tmp_path / "adapter", factors(SHAPES, size=0.0))
    result = gossamer.merge(small, adapter, out=tmp_path / "out", parent=parent)
    assert any("NOTHING ADDED" in note for note in result.record["notes"])
    old, new = read_tensors(small), read_tensors(tmp_path / "out")
    assert all(torch.equal(new[name], each) for name, each in old.items())


def test_what_was_measured_is_forgotten_and_the_history_kept(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("float")
    copy = Path(shutil.copytree(small, tmp_path / "copy"))
    add_measurement(copy, "quality", {"perplexity": 1.0})
    adapter = write_adapter(tmp_path / "adapter", factors(SHAPES), target_modules=["q_proj", "o_proj"])
    once = gossamer.merge(copy, adapter, out=tmp_path / "once")
    gossamer.merge(tmp_path / "once", adapter, out=tmp_path / "twice")
    manifest = read_manifest(tmp_path / "twice")
    assert manifest["measured"] == {}
    assert len(manifest["merged"]) == 2
    assert manifest["recipe"] == read_manifest(small)["recipe"]
    assert manifest["merged"][0]["adapter"]["base_model"] == "some/model"
    assert any("no weights for o_proj" in note for note in once.record["notes"])


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "shapes"),
    [
        ("is no matrix", {"model.layers.7.mlp.down_proj": (64, 96)}),
        (r"is \[64, 64\] there and \[64, 96\]", {Q: (64, 96)}),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    words: str, shapes: dict[str, tuple[int, int]], folders: Folders, tmp_path: Path
) -> None:
    _, small = folders("float")
    adapter = write_adapter(tmp_path / "adapter", factors(shapes))
    with pytest.raises(UsageError, match=words):
        gossamer.merge(small, adapter, out=tmp_path / "out")
    assert names(tmp_path) == ["adapter"]


def test_what_cannot_be_meant_is_refused_and_nothing_is_left(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("float")
    save_tiny("bert", tmp_path / "encoder")
    save_tiny("llama", tmp_path / "other", seed=7)
    adapter = write_adapter(tmp_path / "adapter", factors(SHAPES))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(adapter / "adapter_config.json", pickled)
    (pickled / "adapter_model.bin").touch()
    cut = Path(shutil.copytree(adapter, tmp_path / "cut"))
    (cut / "adapter_model.safetensors").write_bytes(
        (adapter / "adapter_model.safetensors").read_bytes()[:900]
    )
    bare = Path(shutil.copytree(adapter, tmp_path / "bare"))
    (bare / "adapter_config.json").unlink()
    (tmp_path / "exists").mkdir()
    (tmp_path / "exists" / "a").touch()
    before = names(tmp_path)
    for error, words, given in (
        (CheckpointError, "safe_serialization=True", {"adapter": pickled}),
        (CheckpointError, "truncated or corrupted", {"adapter": cut}),
        (CheckpointError, r"adapter_config\.json: expected this file", {"adapter": bare}),
        (CheckpointError, "no such folder", {"adapter": tmp_path / "none"}),
        (CheckpointError, "Give the folder", {"adapter": adapter / "adapter_model.safetensors"}),
        (CheckpointError, "found none", {"adapter": tmp_path / "exists"}),
        (CheckpointError, "no such path", {"model": tmp_path / "none"}),
        (UsageError, "exists already", {"out": tmp_path / "exists"}),
        (UsageError, "cannot be replaced", {"out": small, "overwrite": True}),
        (UsageError, "into causal language models only", {"model": tmp_path / "encoder"}),
        (UsageError, "was made of another model", {"parent": tmp_path / "other"}),
    ):
        whole: dict[str, Any] = {"model": small, "adapter": adapter, "out": tmp_path / "out", **given}
        with pytest.raises(error, match=words):
            gossamer.merge(**whole)
        assert names(tmp_path) == before, words


def test_tied_matrices_are_not_changed_by_one_name(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("half int4", "qwen2")
    adapter = write_adapter(tmp_path / "adapter", factors({"lm_head": (260, 64)}))
    with pytest.raises(UsageError, match="is tied"):
        gossamer.merge(small, adapter, out=tmp_path / "out")


def test_values_that_do_not_fit_the_stored_type_are_refused(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("low rank")
    huge = {name: each * 1e18 for name, each in factors(SHAPES).items()}
    adapter = write_adapter(tmp_path / "adapter", {name: each * 1e3 for name, each in huge.items()})
    with pytest.raises(GossamerError):
        gossamer.merge(small, adapter, out=tmp_path / "out")
    assert names(tmp_path) == ["adapter"]
