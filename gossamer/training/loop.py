"""The loop: windows of text, the teacher's answer, a step; the held-out text now and then.

    for each step:
        learn     forward and backward passes over some windows at a time
        settle    gradients of what is trained; several processes add up theirs
        move      AdamW along a cosine
        refresh   what the model computes with: once a step
        judge     the held-out text, a few times in a run; the best student is remembered
        keep      a state to go on from

A loss or a gradient that is not finite is not learnt from: the last kept state is put back, the rate halved, the
windows left out.

Several processes (torchrun) share the windows of a step. All take the same steps, from the same sums; what depends on
the clock is decided by the first, which alone keeps states.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn

from gossamer.calibration.observe import main_output
from gossamer.distributed.processes import Processes
from gossamer.errors import CheckpointError
from gossamer.progress import Progress
from gossamer.training.exchange import Exchange
from gossamer.training.moving import Mover
from gossamer.training.objective import loss_of
from gossamer.training.precision import mixed_precision
from gossamer.training.schedule import Schedule
from gossamer.training.settings import FACTORS, TrainingSettings
from gossamer.training.state import Judged, TrainingState, put_back, save
from gossamer.training.states import States
from gossamer.training.student import Student
from gossamer.training.teacher import Teacher
from gossamer.training.text import TrainingText

LARGEST_GRADIENT = 1.0
"""Gradients of a larger norm, all together, are scaled down to it."""
MOST_UNDONE = 6
"""Steps that are undone before training is given up."""


@dataclass(frozen=True)
class Run:
    """What a run works with. What it has reached is in `TrainingState`."""

    student: Student
    teacher: Teacher
    text: TrainingText
    settings: TrainingSettings
    schedule: Schedule
    optimizer: torch.optim.Optimizer
    states: States
    exchange: Exchange
    mover: Mover
    progress: Progress

    @property
    def processes(self) -> Processes:
        return self.exchange.processes


def optimizer_of(student: Student, settings: TrainingSettings) -> torch.optim.AdamW:
    """Return AdamW for the masters of a student: its moments exist for kept weights only."""
    groups = []
    for kind, factor in FACTORS.items():
        params = [master for master, own in student.trained().values() if own == kind]
        if params:
            groups.append({"params": params, "factor": factor * settings.rate})
    return torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)


def train(run: Run, state: TrainingState) -> None:
    """Train until the schedule is over; afterwards the student is the best one that was seen."""
    if not state.curve:
        began = time.monotonic()
        judge(run, state)
        state.reserve += time.monotonic() - began
        state.begun = state.seconds()
        keep(run, state)
    run.schedule.begun, run.schedule.reserve = state.begun, state.reserve
    order = run.text.order(run.settings.seed, state.position)
    agreed = run.processes.agreed
    while not agreed(run.schedule.over(state.step)):
        began = time.monotonic()
        if not step(run, state, list(islice(order, run.settings.batch))) and not undo(run, state):
            break
        run.schedule.longest_step = max(run.schedule.longest_step, time.monotonic() - began)
        tell(run, state)
        if agreed(run.schedule.judges(state.step)):
            judge(run, state)
        if agreed(run.schedule.keeps(state.step)):
            keep(run, state)
    if state.curve[-1].step != state.step:
        judge(run, state)
    if run.processes.index == 0:
        settle_on_the_best(run, state)


def step(run: Run, state: TrainingState, numbers: list[int]) -> bool:
    """Take one step on these windows; False, and nothing has moved, if loss or gradient is not finite."""
    at_once = run.settings.at_once(run.text.ids_NL.shape[1])
    own = run.processes.share(numbers)
    (loss,) = run.processes.sums(
        sum(learn(run, part, len(part) / len(numbers)) for part in _parts(own, at_once))
    )
    run.student.settle()
    run.exchange.add_up()
    trained = [each for group in run.optimizer.param_groups for each in group["params"]]
    norm = nn.utils.get_total_norm([each.grad for each in trained if each.grad is not None])
    nn.utils.clip_grads_with_norm_(trained, LARGEST_GRADIENT, run.processes.same(norm))
    state.position += len(numbers)
    finite = math.isfinite(loss) and bool(torch.isfinite(norm))
    if finite:
        rate = state.caution * run.processes.agreed(run.schedule.rate(state.step))
        for group in run.optimizer.param_groups:
            group["lr"] = group["factor"] * rate
        run.mover.pull(run.processes.agreed(run.schedule.fraction(state.step)))
        run.optimizer.step()
        state.step += 1
        run.mover.move(run.optimizer, state.step, run.processes.agreed(run.schedule.fraction(state.step)))
        run.student.refresh()
        state.tokens += len(numbers) * run.text.ids_NL.shape[1]
        state.loss_sum, state.loss_steps = state.loss_sum + loss, state.loss_steps + 1
    run.student.forget_gradients()
    return finite


def learn(run: Run, numbers: Sequence[int], share: float) -> float:
    """Add the gradient of the loss on these windows, times their share of the step; return the loss times it."""
    ids_BL = run.text.ids_NL[list(numbers)]
    with mixed_precision(run.settings.dtype):
        loss = loss_of(
            run.student.model, run.teacher, run.settings.objective, numbers, ids_BL, run.text.shown
        )
    (loss.total * share).backward()
    return float(loss.total.detach()) * share


def judge(run: Run, state: TrainingState) -> None:
    """Judge the student, as it would be stored, on the held-out text, and remember it if none was better."""
    with run.mover.hard():
        kl, nll = run.processes.sums(*measured(run, first=not state.curve))
        loss = state.loss_sum / state.loss_steps if state.loss_steps else None
        perplexity = None if math.isnan(nll) else math.exp(nll) if nll < 700 else math.inf
        state.curve.append(Judged(state.step, state.tokens, state.seconds(), loss, kl, perplexity))
        state.loss_sum, state.loss_steps = 0.0, 0
        if kl < state.best_kl:
            state.best_step, state.best_kl = state.step, kl
            if run.processes.index == 0:  # which writes it
                state.best = run.student.snapshot()
    if not math.isfinite(kl) and len(state.curve) == 1:
        raise CheckpointError(
            "the model predicts NaN on the held-out text, before it was trained: it is damaged."
        )
    _tell_judged(run, state)


def measured(run: Run, *, first: bool) -> tuple[float, float]:
    """Return this process's part of distance and cross entropy on the held-out text, exact; `first` is told."""
    distance = nll = 0.0
    shown = run.text.shown
    done, count = 0, len(run.text.held_out)
    own = run.processes.share(run.text.held_out)
    with torch.inference_mode():
        for numbers in _parts(own, run.settings.at_once(run.text.ids_NL.shape[1])):
            if first:
                run.progress("judging the held-out text", done, len(own))
            ids_BL, share = run.text.ids_NL[list(numbers)], len(numbers) / count
            seen_BL, weight_T = shown.ids(numbers, ids_BL), shown.weights(numbers, ids_BL)
            own_BLV = main_output(run.student.model(seen_BL))
            answer = run.teacher.answer(numbers, seen_BL)
            distance += share * float(answer.divergence(own_BLV.flatten(0, 1), weight_T, 1.0))
            nll += share * float(shown.cross_entropy(numbers, ids_BL, own_BLV))
            done += len(numbers)
    if first:
        run.progress("judging the held-out text", len(own), len(own))
    return distance, nll


def undo(run: Run, state: TrainingState) -> bool:
    """Go back to the last kept state with half the rate, and say so; False if that was done too often."""
    state.undone += 1
    state.caution /= 2
    put_back(state, run.student, run.optimizer, run.states)
    kept = run.states.progress()
    assert kept is not None
    note = f"step {state.step + 1}: loss or gradient was not finite; back to step {kept['step']}, at half the rate"
    for key in ("step", "tokens", "loss_sum", "loss_steps", "best_step", "best_kl"):
        setattr(state, key, kept[key])
    state.curve = [Judged(**point) for point in kept["curve"]]
    if state.undone > MOST_UNDONE:
        note = f"training was given up at step {state.step}: {state.undone} steps had to be undone"
    state.notes.append(note)
    run.progress(note, 0, 0)
    keep(run, state)
    return state.undone <= MOST_UNDONE


def keep(run: Run, state: TrainingState) -> None:
    """Keep a state to go on from."""
    began = time.monotonic()
    save(state, run.student, run.optimizer, run.states, run.schedule.steps)
    run.schedule.kept_at, run.schedule.keeping = run.schedule.seconds(), time.monotonic() - began


def settle_on_the_best(run: Run, state: TrainingState) -> None:
    """Let the student be the best one that was seen, and say so if that is not the last."""
    if state.best_step != state.step:
        when = f"step {state.best_step}" if state.best_step else "the beginning: training did not help"
        state.notes.append(
            f"held-out {run.text.shown.title} was least at {when}, and that state is what was written"
        )
    run.student.restore(state.best)


def tell(run: Run, state: TrainingState) -> None:
    """Tell how far training has come."""
    if run.schedule.steps is not None:
        run.progress("training, steps", state.step, run.schedule.steps)
    else:
        assert run.schedule.minutes is not None
        total = math.ceil(60 * run.schedule.minutes)
        run.progress("training, seconds", min(total, int(run.schedule.seconds())), total)


def _tell_judged(run: Run, state: TrainingState) -> None:
    point, title = state.curve[-1], run.text.shown.title
    if point.loss is None:
        perplexity = "" if point.perplexity is None else f", perplexity {point.perplexity:.2f}"
        run.progress(f"before training: held-out {title} {point.kl:.4f}{perplexity}", 0, 0)
        return
    speed = point.tokens / max(point.seconds - state.begun, 1e-9)
    left = run.schedule.left(state.step)
    run.progress(
        f"step {point.step}: loss {point.loss:.4f}, held-out {title} {point.kl:.4f} "
        f"({state.curve[0].kl:.4f} at first), "
        f"{speed:,.0f} tokens/s, {left / 60:.1f} minutes left",
        0,
        0,
    )


def _parts(numbers: Sequence[int], at_once: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), at_once):
        yield numbers[start : start + at_once]
