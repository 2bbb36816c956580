"""The divergences, against sums over whole distributions."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gossamer.errors import UsageError
from gossamer.training.lessons.divergence import Samples, TopK, kl

V, K, T = 40, 6, 5


def teacher_and_student(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher_TV, student_TV = 3 * torch.randn(2, T, V, generator=generator)
    return teacher_TV, student_TV.requires_grad_()


def lesson_of(teacher_TV: Tensor, k: int = K) -> TopK:
    """Kept exactly, without a code."""
    probs_TV = teacher_TV.double().softmax(-1)
    ids_TK = probs_TV.argsort(-1, descending=True)[:, :k].sort(-1).values
    kept_TK = probs_TV.gather(-1, ids_TK)
    rest_T = probs_TV.scatter(-1, ids_TK, 0.0).sum(-1)
    return TopK(ids_TK, kept_TK.log().float(), rest_T.log().float(), V)


def dense_coarse_kl(teacher_TV: Tensor, student_TV: Tensor, lesson: TopK) -> Tensor:
    """The same by a matrix that sums the V outcomes to k + 1, in double precision."""
    kl_T = []
    for teacher_V, student_V, ids_K in zip(teacher_TV, student_TV, lesson.ids_BK, strict=True):
        sums = torch.zeros(len(ids_K) + 1, V, dtype=torch.float64)
        for row, token in enumerate(ids_K.tolist()):
            sums[row, token] = 1
        sums[-1] = 1 - sums[:-1].sum(0)
        p, q = (sums @ each.double().softmax(-1) for each in (teacher_V, student_V))
        kl_T.append(torch.nn.functional.kl_div(q.log(), p, reduction="sum"))
    return torch.stack(kl_T)


def test_value_and_gradient_are_those_of_the_dense_sum() -> None:
    teacher_TV, student_TV = teacher_and_student()
    lesson = lesson_of(teacher_TV)
    weight_T = torch.arange(1.0, T + 1)
    got_T = kl(student_TV, lesson)
    (got_TV,) = torch.autograd.grad((weight_T * got_T).sum(), student_TV)
    expected_T = dense_coarse_kl(teacher_TV, student_TV, lesson)
    (expected_TV,) = torch.autograd.grad((weight_T * expected_T).sum(), student_TV)
    torch.testing.assert_close(got_T.double(), expected_T, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got_TV, expected_TV, rtol=1e-4, atol=1e-6)
    assert float(got_TV.abs().max()) > 0.1


def test_it_is_zero_exactly_where_the_coarse_outcomes_agree_and_positive_elsewhere() -> None:
    teacher_TV, student_TV = teacher_and_student()
    lesson = lesson_of(teacher_TV)
    assert bool((kl(student_TV, lesson) > 0.01).all())
    other_TV = teacher_TV.clone()  # the same on the ids, and the same mass spread otherwise over the rest
    for row, ids_K in enumerate(lesson.ids_BK):
        rest = torch.ones(V, dtype=torch.bool)
        rest[ids_K] = False
        other_TV[row, rest] = teacher_TV[row, rest][torch.randperm(int(rest.sum()))]
    assert not torch.equal(other_TV, teacher_TV)
    for same_TV in (teacher_TV, teacher_TV + 7.0, other_TV):
        logits_TV = same_TV.clone().requires_grad_()
        loss_T = kl(logits_TV, lesson)
        (gradient_TV,) = torch.autograd.grad(loss_T.sum(), logits_TV)
        assert float(loss_T.detach().abs().max()) < 1e-5
        assert float(gradient_TV.abs().max()) < 1e-5


def test_it_never_exceeds_the_divergence_over_the_whole_vocabulary_and_reaches_it_with_all() -> None:
    teacher_TV, student_TV = teacher_and_student()
    log_q_TV = student_TV.log_softmax(-1)
    whole_T = torch.nn.functional.kl_div(log_q_TV, teacher_TV.softmax(-1), reduction="none").sum(-1)
    coarse = [kl(student_TV, lesson_of(teacher_TV, k)) for k in (1, 6, 20, V - 1, V)]
    for fewer_T, more_T in itertools.pairwise(coarse):
        assert bool((fewer_T <= more_T + 1e-5).all())
    torch.testing.assert_close(coarse[-1], whole_T)
    (gradient_TV,) = torch.autograd.grad(coarse[-1].sum(), student_TV)
    torch.testing.assert_close(
        gradient_TV, student_TV.softmax(-1) - teacher_TV.softmax(-1), atol=1e-6, rtol=1e-4
    )


def test_students_that_are_certain_give_finite_losses_and_gradients() -> None:
    teacher_TV, _ = teacher_and_student()
    lesson = lesson_of(teacher_TV)
    for token in (int(lesson.ids_BK[0, 0]), int(teacher_TV[0].argmin())):
        student_TV = torch.zeros(T, V)
        student_TV[:, token] = 300.0
        student_TV.requires_grad_()
        loss_T = kl(student_TV, lesson)
        (gradient_TV,) = torch.autograd.grad(loss_T.sum(), student_TV)
        assert bool(torch.isfinite(loss_T).all())
        assert bool(torch.isfinite(gradient_TV).all())


def test_samples_are_right_in_the_mean_value_and_gradient() -> None:
    teacher_TV, student_TV = teacher_and_student()
    probs_TV, draws = teacher_TV.double().softmax(-1), 200_000
    ids_TK = torch.multinomial(probs_TV, draws, replacement=True, generator=torch.Generator().manual_seed(0))
    entropy_T = torch.special.entr(probs_TV).sum(-1).float()
    loss_T = kl(student_TV, Samples(ids_TK, entropy_T, V))
    log_q_TV = student_TV.log_softmax(-1)
    whole_T = (probs_TV * (probs_TV.log() - log_q_TV)).sum(-1)
    spread_T = (probs_TV * (log_q_TV - (probs_TV * log_q_TV).sum(-1, keepdim=True)) ** 2).sum(-1).sqrt()
    assert bool(((loss_T - whole_T).abs() < 4.5 * spread_T / math.sqrt(draws)).all())
    few_TK = ids_TK[:, :500]
    (gradient_TV,) = torch.autograd.grad(kl(student_TV, Samples(few_TK, entropy_T, V)).sum(), student_TV)
    counts_TV = torch.from_numpy(np.stack([np.bincount(row, minlength=V) for row in few_TK.numpy()])) / 500
    torch.testing.assert_close(
        gradient_TV, (student_TV.softmax(-1) - counts_TV).float(), atol=1e-6, rtol=1e-4
    )


def test_top_k_alone_would_be_biased_where_few_samples_are_not() -> None:
    """The gradient for a token outside the k likeliest: samples teach it on average, top k does not."""
    teacher_TV, student_TV = teacher_and_student()
    dense_TV = (student_TV.softmax(-1) - teacher_TV.softmax(-1)).detach()
    generator = torch.Generator().manual_seed(1)
    mean_TV = torch.zeros(T, V)
    for _ in range(1500):
        ids_TK = torch.multinomial(teacher_TV.softmax(-1), K, replacement=True, generator=generator)
        loss = kl(student_TV, Samples(ids_TK, torch.zeros(T), V)).sum()
        mean_TV += torch.autograd.grad(loss, student_TV)[0] / 1500
    (top_k_TV,) = torch.autograd.grad(kl(student_TV, lesson_of(teacher_TV)).sum(), student_TV)
    assert float((mean_TV - dense_TV).norm()) < 0.1 * float((top_k_TV - dense_TV).norm()) + 0.03


def test_logits_of_another_vocabulary_or_text_are_refused() -> None:
    teacher_TV, student_TV = teacher_and_student()
    lesson = lesson_of(teacher_TV)
    with pytest.raises(UsageError, match="same vocabulary"):
        kl(student_TV[:, :-1], lesson)
    with pytest.raises(UsageError, match="same tokens"):
        kl(student_TV[:-1], lesson)
    with pytest.raises(UsageError, match="same vocabulary"):
        kl(torch.zeros(T, V + 8), lesson.to("cpu"))
