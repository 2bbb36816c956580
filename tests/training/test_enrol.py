"""A student computes exactly what the folder's packed weights mean, and keeps its zeros and its forms."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

import gossamer
from gossamer.checkpoint.manifest import read_manifest
from gossamer.checkpoint.source import open_model
from gossamer.errors import UsageError
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.weight import PackedWeight
from gossamer.training.enrol import enrol
from gossamer.training.grid import GridWeight
from gossamer.training.student import Student
from tests.conftest import read_packed
from tests.models import save_tiny, tiny_inputs
from tests.training.conftest import Folders
from tests.training.folders import RECIPES


def student_of(folder: Path, mode: str = "all", *, embeddings: bool = True) -> Student:
    return enrol(open_model(folder), mode, embeddings=embeddings, rank=4, seed=0)  # type: ignore[arg-type]


def parts_of(packed: PackedWeight) -> dict[str, PackedWeight]:
    return packed.parts() if isinstance(packed, LowRankWeight) else {"weight": packed}


def one_step(student: Student, rate: float = 5e-2) -> None:
    """Move everything that is trained, by a loss that reaches all of it."""
    optimizer = torch.optim.SGD([each for each, _kind in student.trained().values()], lr=rate)
    ids_BT = tiny_inputs("llama")["input_ids"]
    logits = student.model(ids_BT, use_cache=False).logits
    functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten()).backward()
    student.settle()
    for each in student.masters().values():
        assert each.grad is not None
        each.grad /= each.grad.abs().max().clamp_min(1e-12)
    optimizer.step()
    student.refresh()
    student.forget_gradients()


def test_a_student_runs_on_all_threads_of_torch(folders: Folders) -> None:
    _, small = folders("half int4")
    student, before, seen = student_of(small), torch.get_num_threads(), []
    student.model.get_decoder().register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        student.model(**tiny_inputs("llama"))
    finally:
        torch.set_num_threads(before)
    assert seen == [2]


@pytest.mark.parametrize("form", RECIPES)
def test_every_part_has_exactly_the_values_that_its_packed_form_means(
    form: str, folders: Folders, tmp_path: Path
) -> None:
    _, small = folders(form)
    student = student_of(small)
    manifest = read_manifest(small)
    packed = read_packed(small, manifest)
    assert set(student.packed) == set(packed)
    for name, trained in student.packed.items():
        stored = packed[name]
        parts = parts_of(stored)
        assert set(parts) == set(trained.parts)
        for part, weight in trained.parts.items():
            assert torch.equal(weight.working_OI, parts[part].unpack())
            assert torch.equal(weight.mask(), parts[part].mask())
            assert weight.values_n.numel() == int(parts[part].mask().sum())


@pytest.mark.parametrize("form", RECIPES)
def test_after_a_step_what_is_packed_is_what_the_model_computes_with_in_the_same_forms_and_zeros(
    form: str, folders: Folders, tmp_path: Path
) -> None:
    _, small = folders(form)
    student = student_of(small)
    before = {name: weight.working_OI.clone() for name, weight in student.weights()}
    one_step(student)
    moved = student.tensors()
    packed = read_packed(small, gossamer.checkpoint.manifest.read_manifest(small))  # type: ignore[attr-defined]
    for name, old in packed.items():
        new = student.packed[name].repacked()
        assert new.meta() == old.meta()
        assert new.num_bytes == old.num_bytes
        assert {key: value.shape for key, value in new.tensors().items()} == {
            key: value.shape for key, value in old.tensors().items()
        }
        pairs = (
            zip(new.parts().values(), old.parts().values(), strict=True)
            if isinstance(new, LowRankWeight) and isinstance(old, LowRankWeight)
            else [(new, old)]
        )
        for one, other in pairs:
            assert not one.unpack()[~other.mask()].any()
        assert all(torch.equal(moved[f"{name}.{key}"], value) for key, value in new.tensors().items())
    changed = [name for name, weight in student.weights() if not torch.equal(weight.working_OI, before[name])]
    assert len(changed) > 0.9 * len(before)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3", "gpt2", "opt"])
def test_logits_are_those_of_the_folder_as_a_user_loads_it(
    kind: str, folders: Folders, tmp_path: Path
) -> None:
    _, small = folders("half int4", kind)
    ids = tiny_inputs(kind)
    with torch.no_grad():
        wanted = gossamer.load(small).model(**ids).logits
        own = student_of(small).model(**ids, use_cache=False).logits
    torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_autograd_at_the_kept_places(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("low rank")
    gossamer.export(small, tmp_path / "dense")
    dense = gossamer.load(tmp_path / "dense", dtype=torch.float32).model
    student = student_of(small)
    ids = tiny_inputs("llama")
    for model in (dense, student.model):
        for parameter in dense.parameters():
            parameter.requires_grad_(True)
        model(**ids, use_cache=False).logits.square().mean().backward()
    student.settle()
    for name, trained in student.packed.items():
        gradient_OI = dense.get_parameter(f"{name}.weight").grad
        assert gradient_OI is not None
        residual = trained.parts["residual"]
        assert residual.values_n.grad is not None
        torch.testing.assert_close(residual.values_n.grad, gradient_OI[residual.mask()], rtol=1e-3, atol=1e-6)
        left, right = trained.parts["left"], trained.parts["right"]
        assert left.values_n.grad is not None
        wanted = gradient_OI @ right.working_OI.T
        torch.testing.assert_close(left.values_n.grad.view_as(wanted), wanted, rtol=1e-3, atol=1e-6)
    norm = dense.get_parameter("model.norm.weight").grad
    torch.testing.assert_close(student.plain["model.norm.weight"].master.grad, norm, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("form", ["half int4", "low rank int4", "int4 asymmetric"])
def test_codes_begin_towards_the_parent_and_no_weight_changes(form: str, folders: Folders) -> None:
    parent, small = folders(form)
    student = student_of(small)
    before = {name: weight.working_OI.clone() for name, weight in student.weights()}
    centres = {name: weight.values_n.detach().clone() for name, weight in student.weights()}
    dense = gossamer.load(parent, dtype=torch.float32).model
    student.lean(dense, open_model(small).architecture)
    for name, weight in student.weights():
        assert torch.equal(weight.working_OI, before[name])
        if isinstance(weight, GridWeight) and "layers" in name:
            scale_n = weight.take(weight.scale_OG.repeat_interleave(weight.group_size, 1))
            moved_n = (weight.values_n.detach() - centres[name]) / scale_n.where(scale_n != 0, 1)
            assert float(moved_n.abs().max()) <= 0.4501
            assert float(moved_n.abs().mean()) > 0.05
            if name.endswith("/weight"):
                wanted_n = weight.take(dense.get_parameter(name.replace("/", ".")).detach() - before[name])
                assert bool((wanted_n * moved_n * scale_n >= 0).all())


def test_tied_embeddings_are_trained_once_from_both_ends(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("half int4", "qwen2")
    student = student_of(small)
    ends = [name for name in student.packed if "layers" not in name]
    assert ends == ["model.embed_tokens"]
    head = student.model.get_submodule("lm_head")
    assert head.parts["weight"] is student.packed["model.embed_tokens"].parts["weight"]


def test_a_dense_folder_has_no_zeros_to_keep_and_a_pruned_one_keeps_them(
    folders: Folders, tmp_path: Path
) -> None:
    parent, small = folders("float")
    dense = student_of(parent)
    assert any("no zeros to keep" in note for note in dense.notes)
    assert dense.num_removed() == 0
    gossamer.export(small, tmp_path / "pruned")
    pruned = student_of(tmp_path / "pruned")
    assert any("zeros of 14 matrices stay zero" in note for note in pruned.notes)
    masks = {name: weight.working_OI == 0 for name, weight in pruned.weights() if "layers" in name}
    one_step(pruned)
    for name, weight in pruned.weights():
        if name in masks:
            assert not weight.working_OI[masks[name]].any()
            assert float(masks[name].float().mean()) > 0.4


def test_what_is_not_trained_is_said(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("half int4")
    student = student_of(small, embeddings=False)
    assert any("embeddings and output head" in note and "not trained" in note for note in student.notes)
    assert all("layers" in name for name in student.packed)
    norms = student_of(small, "norms")
    assert norms.num_kept() == 0
    assert "no matrix" in norms.notes[0]
    assert set(norms.masters()) == set(norms.plain)


def test_linears_that_were_not_compressed_are_trained_too(folders: Folders, tmp_path: Path) -> None:
    _, small = folders("some")
    student = student_of(small, embeddings=False)
    assert len(student.packed) == 6
    assert len(student.dense) == 8
    assert all("self_attn" in name for name in student.dense)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    save_tiny("t5", tmp_path / "both")
    with pytest.raises(UsageError, match="is an encoder-decoder"):
        student_of(tmp_path / "both")
