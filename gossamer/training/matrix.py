"""A packed matrix taken apart to be trained, and put together again in the form that it had.

Each part (the whole matrix; or residual and factors of a low-rank one) is trained for itself, or stays as it is.

O output features, I input features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.errors import RunError
from gossamer.formats.choose import repack
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.weight import PackedWeight
from gossamer.kernels.declaration import Meta
from gossamer.training.grid import GridWeight
from gossamer.training.kept import FloatWeight, KeptWeight
from gossamer.training.places import places_of

TRAINED_FORMATS = ("dense", "integer", "bitmask", "nm", "block")
"""Those that `compress` writes; coo, csr and csc are for interchange."""
WHOLE, RESIDUAL, LEFT, RIGHT = "weight", "residual", "left", "right"


@dataclass(frozen=True)
class FixedWeight:
    """A matrix that is not trained."""

    working_OI: Tensor

    @property
    def values_n(self) -> None:
        return None


Weight = KeptWeight | FixedWeight


def assembled(parts: Mapping[str, Weight]) -> Tensor:
    """Return the matrix that the parts stand for, [O, I]."""
    if WHOLE in parts:
        return parts[WHOLE].working_OI
    whole_OI = parts[LEFT].working_OI @ parts[RIGHT].working_OI
    return whole_OI + parts[RESIDUAL].working_OI if RESIDUAL in parts else whole_OI


def kept_weight(packed: PackedWeight, moves: bool = False) -> KeptWeight:
    """Return a packed weight, one without factors, to be trained; its zeros move if they are to and can."""
    quantized, mask_OI = packed.quantized(), packed.mask()
    places = places_of(packed) if moves and not mask_OI.all() else None
    entries_OI = mask_OI if places is None else torch.ones_like(mask_OI)
    if quantized is not None:
        weight: KeptWeight = GridWeight(quantized, entries_OI)
    else:
        values = next(tensor for name, tensor in packed.tensors().items() if name in ("values", "weight"))
        weight = FloatWeight(packed.unpack(), entries_OI, values.dtype)
    if places is not None:
        weight.let_move(places, mask_OI)
    return weight


@dataclass(frozen=True)
class TrainedMatrix:
    """The parts of a packed matrix. One without factors has a single part, `weight`."""

    name: str
    packed: PackedWeight
    """As it was."""
    parts: dict[str, KeptWeight]

    @classmethod
    def of(cls, name: str, packed: PackedWeight, moves: bool = False) -> "TrainedMatrix":
        """Take a matrix apart; its parts have exactly the values that it unpacks to. `moves`: its zeros may."""
        if not isinstance(packed, LowRankWeight):
            return cls(name, packed, {WHOLE: kept_weight(packed, moves)})
        parts = {part: kept_weight(each, moves) for part, each in packed.parts().items()}
        return cls(name, packed, parts)

    def repacked(self) -> PackedWeight:
        """Return the matrix as it is now, in the form that it had.

        RunError if that would not mean exactly what the model computes with, or if a removed weight came back.
        """
        meta = self.packed.meta()
        if not isinstance(self.packed, LowRankWeight):
            return self._part(WHOLE, self.packed, meta)
        old = self.packed.parts()
        new = {part: self._part(part, each, meta[part]) for part, each in old.items()}
        return LowRankWeight.join(new[LEFT], new[RIGHT], new.get(RESIDUAL))

    def _part(self, part: str, old: PackedWeight, meta: Meta) -> PackedWeight:
        weight = self.parts[part]
        mask_OI = old.mask() if weight.moving is None else weight.mask()
        codes = weight.quantized() if isinstance(weight, GridWeight) else None
        new = repack(meta, weight.working_OI, mask_OI, codes)
        values_OI = new.unpack()
        if not torch.equal(values_OI, weight.working_OI) or bool(values_OI[~mask_OI].any()):
            raise RunError(
                f"{self.name}: packing gives other values than were trained, or a removed weight came back. Nothing "
                "was written. This is a defect of Gossamer: please report it."
            )
        return new
