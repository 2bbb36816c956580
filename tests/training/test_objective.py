"""The parts of the loss."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

import gossamer
from gossamer.training.objective import Objective, loss_of, square_head
from gossamer.training.shown import Shown
from gossamer.training.teacher import DenseTeacher
from tests.models import tiny_inputs
from tests.training.conftest import Folders


def test_square_head_is_each_layers_error_over_the_teachers_mean_square() -> None:
    own, other = ([torch.randn(2, 5, 8) * scale for scale in (1, 3, 9)] for _ in range(2))
    wanted = [float(((o - t) ** 2).sum() / (t**2).sum()) for o, t in zip(own[1:], other[1:], strict=True)]
    assert float(square_head(own, other)) == pytest.approx(sum(wanted) / 2, rel=1e-5)


def test_the_weights_of_positions_are_a_mean_over_the_predictions_that_count() -> None:
    weight_BL = Shown(first=2).weights([0, 1], torch.zeros(2, 5)).view(2, 5)
    assert weight_BL[0].tolist() == pytest.approx([0, 1 / 6, 1 / 6, 1 / 6, 0])
    assert float(weight_BL.sum()) == pytest.approx(1.0)


def test_the_loss_is_the_sum_of_its_parts(folders: Folders) -> None:
    parent, small = folders("float")
    own, other = (gossamer.load(folder, dtype=torch.float32).model for folder in (small, parent))
    ids_BL = tiny_inputs("llama")["input_ids"]
    teacher = DenseTeacher(parent)
    given = (own, teacher)
    with torch.no_grad():
        logits, wanted = (model(ids_BL).logits[:, :-1].flatten(0, 1) for model in (own, other))
        kl = loss_of(*given, Objective(), [0, 1], ids_BL, Shown()).total
        labelled = loss_of(*given, Objective(labels=0.5), [0, 1], ids_BL, Shown()).total
        seen = loss_of(*given, Objective(hidden=2.0), [0, 1], ids_BL, Shown()).total
        states = [model(ids_BL, output_hidden_states=True).hidden_states for model in (own, other)]
    divergence = functional.kl_div(logits.log_softmax(-1), wanted.softmax(-1), reduction="batchmean")
    torch.testing.assert_close(kl, divergence, rtol=1e-4, atol=1e-6)
    entropy = functional.cross_entropy(logits, ids_BL[:, 1:].flatten())
    torch.testing.assert_close(labelled, divergence + 0.5 * entropy, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen, divergence + 2 * square_head(*states), rtol=1e-4, atol=1e-6)


def test_answers_for_the_windows_that_judge_are_the_same_time_and_again(
    folders: Folders, tmp_path: Path
) -> None:
    parent, _ = folders("float")
    teacher, ids_BL = DenseTeacher(parent, [3]), tiny_inputs("llama")["input_ids"][:1]
    logits_TV, weight_T = torch.randn(ids_BL.numel(), 260), Shown().weights([3], ids_BL)
    with torch.inference_mode():
        values = [
            float(teacher.answer([number], ids_BL).divergence(logits_TV, weight_T, 1.0))
            for number in (3, 3, 4)
        ]
    assert values[0] == values[1] == pytest.approx(values[2], rel=1e-6)


def test_the_native_engine_answers_nearly_as_torch_does_and_never_for_the_windows_that_judge(
    folders: Folders,
) -> None:
    parent, _ = folders("float")
    ids_BL = tiny_inputs("llama")["input_ids"]
    exact, quick = DenseTeacher(parent, [3]), DenseTeacher(parent, [3], native=ids_BL.shape[1])
    logits_TV, weight_T = torch.randn(ids_BL.numel(), 260), Shown().weights([3], ids_BL)
    with torch.inference_mode():
        learnt, judged = (
            [
                float(each.answer([number], ids_BL).divergence(logits_TV, weight_T, 1.0))
                for each in (exact, quick)
            ]
            for number in (0, 3)
        )
    assert learnt[0] == pytest.approx(learnt[1], rel=0.02)
    assert learnt[0] != learnt[1]
    assert judged[0] == judged[1]
    assert (exact.record()["engine"], quick.record()["engine"]) == ("torch", "native, int8 activations")
