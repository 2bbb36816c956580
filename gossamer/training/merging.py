"""A change to one matrix of a student: added where its weights are kept, and nowhere else.

    one part, or a residual beside two factors     W + D at the kept places, rounded as the folder stores it; groups
                                                   of codes whose range the sum leaves get another one
    two factors alone                              the nearest product of the same rank to L R + D

O output features, I input features, R the rank of the folder's factors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gossamer.errors import RunError, UsageError
from gossamer.formats.low_rank import LowRankWeight
from gossamer.training.arrival import Arrival
from gossamer.training.grid import GridWeight
from gossamer.training.kept import FloatWeight, KeptWeight
from gossamer.training.matrix import LEFT, RESIDUAL, RIGHT, WHOLE, TrainedMatrix, assembled


def merge_change(name: str, parts: Mapping[str, KeptWeight], change_OI: Tensor) -> Arrival:
    """Add a change to a matrix, and return how much of it arrived.

    RunError if a removed weight came back; UsageError where there is nothing that it can be added to.
    """
    weight = parts.get(WHOLE, parts.get(RESIDUAL))
    if weight is None:
        return _refactor(name, parts[LEFT], parts[RIGHT], change_OI)
    before_n = weight.take(weight.working_OI).clone()
    weight.add(change_OI)
    if isinstance(weight, GridWeight):
        weight.widen()
    if bool(weight.working_OI[~weight.mask()].any()):
        raise RunError(f"{name}: a removed weight came back. This is a defect of Gossamer: please report it.")
    return Arrival.of(change_OI, weight.take(change_OI), weight.take(weight.working_OI) - before_n)


@torch.no_grad()
def _refactor(name: str, left: KeptWeight, right: KeptWeight, change_OI: Tensor) -> Arrival:
    """Let the factors be those of the best product of their rank for the sum (Eckart and Young 1936)."""
    if not all(isinstance(each, FloatWeight) and each.index_n is None for each in (left, right)):
        raise UsageError(
            f"{name}: is stored as two factors with codes or zeros, and nothing beside them that could be added to."
        )
    before_OI = left.working_OI @ right.working_OI
    rank = right.shape[0]
    u_OR, s_R, v_RI = torch.linalg.svd(before_OI + change_OI, full_matrices=False)
    root_R = s_R[:rank].sqrt()
    left.values_n.copy_((u_OR[:, :rank] * root_R).reshape(-1))
    right.values_n.copy_((root_R[:, None] * v_RI[:rank]).reshape(-1))
    left.refresh()
    right.refresh()
    moved_OI = assembled({LEFT: left, RIGHT: right}) - before_OI
    return Arrival.of(change_OI, change_OI.reshape(-1), moved_OI.reshape(-1))


def num_fallen(trained: TrainedMatrix) -> int:
    """Return how many kept weights are 0 where the form takes a zero for a removed weight."""
    packed = trained.packed
    forms = packed.parts() if isinstance(packed, LowRankWeight) else {WHOLE: packed}
    masked = (trained.parts[part] for part, each in forms.items() if each.meta().get("masked"))
    return sum(int((weight.take(weight.working_OI) == 0).sum()) for weight in masked)
