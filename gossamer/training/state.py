"""What a training run has reached, and how that is kept: one dataclass, enough to go on from."""

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import UsageError
from gossamer.training.states import States
from gossamer.training.student import Student


@dataclass(frozen=True)
class Judged:
    """The held-out text judged once."""

    step: int
    tokens: int
    """That were learnt from until then."""
    seconds: float
    loss: float | None
    """Mean of the training loss since the last time; None before the first step."""
    kl: float
    """Mean KL(parent || student) of a held-out token, nats; of an encoder without a head, the error of its
    embeddings."""
    perplexity: float | None
    """Of the student, on the same text; of a masked language model, of the masked tokens; None of embeddings."""


@dataclass
class TrainingState:
    """All that changes from step to step, beside the student and the optimizer."""

    step: int = 0
    position: int = 0
    """Windows that were drawn."""
    tokens: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    """Of the steps since the held-out text was judged last."""
    curve: list[Judged] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    """What the student of the least held-out divergence computes with."""
    best_step: int = 0
    best_kl: float = float("inf")
    caution: float = 1.0
    """The learning rate's factor: halved when a step had to be undone."""
    undone: int = 0
    begun: float = 0.0
    """When the first step began, in seconds of the run."""
    reserve: float = 0.0
    """Seconds that the end of the run will take."""
    notes: list[str] = field(default_factory=list)
    resumed: int = 0
    seconds_before: float = 0.0
    """What the processes before have taken."""
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Time that the run took so far, in all the processes that worked on it."""
        return self.seconds_before + time.monotonic() - self.started


RECORDED = (
    "step", "position", "tokens", "loss_sum", "loss_steps", "best_step", "best_kl", "caution", "undone", "begun",
    "reserve", "notes", "resumed",
)  # fmt: skip


def save(
    state: TrainingState,
    student: Student,
    optimizer: torch.optim.Optimizer,
    states: States,
    total: int | None,
) -> None:
    """Keep the state of a run between two steps."""
    record = {key: getattr(state, key) for key in RECORDED}
    curve = [asdict(point) for point in state.curve]
    trained = student.masters()
    values = {
        "masters": {name: master.detach() for name, master in trained.items()},
        "optimizer": optimizer.state_dict()["state"],
        "best": state.best,
        "moving": {
            name: {"mask_OI": each.mask_OI, "soft": each.soft, "anchor_OI": each.anchor_OI}
            for name, weight in student.weights()
            if (each := weight.moving) is not None
        },
    }
    about = {"done": state.step, "total": total, "seconds": state.seconds(), "curve": curve}
    states.save({**about, **surroundings(states), **record}, values)


def load(states: States) -> TrainingState | None:
    """Return the state of a run that was stopped, without its tensors; None if there was none."""
    progress = states.progress()
    if progress is None:
        return None
    state = TrainingState(**{key: progress[key] for key in RECORDED})
    state.curve = [Judged(**point) for point in progress["curve"]]
    state.seconds_before, state.resumed = progress["seconds"], progress["resumed"] + 1
    now = surroundings(states)
    changed = [
        f"{key} {progress.get(key)} before, {now[key]} after" for key in now if progress.get(key) != now[key]
    ]
    if changed:
        state.notes.append(
            f"stopped after step {state.step} and resumed in other surroundings ({', '.join(changed)}): the last bits "
            "may differ from those of a run that was not stopped"
        )
    return state


@torch.no_grad()
def put_back(
    state: TrainingState, student: Student, optimizer: torch.optim.Optimizer, states: States
) -> None:
    """Give student, optimizer and best state the tensors that were kept."""
    values = states.values()
    trained = student.masters()
    if set(values["masters"]) != set(trained):
        raise UsageError(
            "--resume: what was kept belongs to another model. Delete the run's folder to start anew."
        )
    for name, master in trained.items():
        master.copy_(values["masters"][name])
    whole: dict[str, Any] = optimizer.state_dict()
    optimizer.load_state_dict({**whole, "state": values["optimizer"]})
    state.best = values["best"]
    for name, weight in student.weights():
        if weight.moving is not None:
            weight.moving = replace(weight.moving, **values["moving"][name])
    student.refresh()


def surroundings(states: States) -> dict[str, object]:
    """What the last bits of a result may depend on."""
    processes = states.processes.count
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "processes": processes}
