"""A residual in any packed format plus a product of two factors: W = S + A B.

The parts are packed weights themselves: their declarations stand in this one, their tensors beside each other
under a prefix. Without a residual the factors are the whole weight. A product costs one with each part,
A (B x) + S x; the matrix A B is never made.

O output features, I input features, R the rank.
Bytes per weight: those of the residual, and R (1/O + 1/I) * bytes of a factor's value.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.block import BlockWeight
from gossamer.formats.checks import (
    MAX_FEATURES,
    Specs,
    fail,
    read_choice,
    read_int,
    read_shape,
    require,
)
from gossamer.formats.dense import DenseWeight
from gossamer.formats.factors import Factors
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.nm import NmWeight
from gossamer.formats.weight import PackedWeight
from gossamer.kernels import reference
from gossamer.kernels.declaration import Meta

FACTOR_FORMATS: dict[str, type[PackedWeight]] = {"dense": DenseWeight, "integer": IntegerWeight}
RESIDUAL_FORMATS: dict[str, type[PackedWeight]] = {
    **FACTOR_FORMATS,
    "bitmask": BitmaskWeight,
    "nm": NmWeight,
    "block": BlockWeight,
}


class LowRankWeight(PackedWeight):
    """`mask` is True everywhere: the product of the factors has no zeros. `residual.mask()` is the sparse part's."""

    format = "low_rank"

    @classmethod
    def declare(cls, left: Meta, right: Meta, residual: Meta | None) -> Meta:
        """Return the declaration over those of the parts."""
        (num_outputs, rank), (_, num_inputs) = left["shape"], right["shape"]
        return {
            "format": "low_rank",
            "shape": [num_outputs, num_inputs],
            "rank": rank,
            "residual": None if residual is None else dict(residual),
            "left": dict(left),
            "right": dict(right),
        }

    @classmethod
    def declare_factors(cls, shape: tuple[int, int], rank: int, residual: Meta | None) -> Meta:
        """Return the declaration that `pack` would give to factors of that rank."""
        left = DenseWeight.declare((shape[0], rank), torch.float16)
        right = DenseWeight.declare((rank, shape[1]), torch.float16)
        return cls.declare(left, right, residual)

    @classmethod
    def tensor_specs(cls, meta: Meta) -> Specs:
        num_outputs, num_inputs = read_shape(meta)
        rank = read_int(meta, "rank", 1, MAX_FEATURES)
        require("residual" in meta, "declaration: residual", "a declaration or null", "nothing")
        specs: Specs = {}
        shapes = {
            "left": (num_outputs, rank),
            "right": (rank, num_inputs),
            "residual": (num_outputs, num_inputs),
        }
        for name, shape in shapes.items():
            if name == "residual" and meta[name] is None:
                continue
            kind = _kind(meta, name)
            part = kind.tensor_specs(meta[name])
            require(
                read_shape(meta[name]) == shape, f"declaration: shape of {name}", shape, meta[name]["shape"]
            )
            specs |= {f"{name}_{key}": spec for key, spec in part.items()}
        return specs

    @classmethod
    def pack(cls, factors: Factors, residual: PackedWeight | None) -> "LowRankWeight":
        """Return the factors in float16 beside a packed residual of the same shape."""
        left = DenseWeight.pack(factors.left_OR, torch.float16)
        right = DenseWeight.pack(factors.right_RI, torch.float16)
        return cls.join(left, right, residual)

    @classmethod
    def join(cls, left: PackedWeight, right: PackedWeight, residual: PackedWeight | None) -> "LowRankWeight":
        """Return the weight over packed parts; FormatError when they do not fit together."""
        meta = cls.declare(left.meta(), right.meta(), None if residual is None else residual.meta())
        parts = {"left": left, "right": right} | ({} if residual is None else {"residual": residual})
        tensors = {
            f"{name}_{key}": tensor for name, part in parts.items() for key, tensor in part.tensors().items()
        }
        return cls.from_tensors(meta, tensors)

    def check(self) -> None:
        for name in ("left", "right", "residual"):
            self._part(name)

    @property
    def residual(self) -> PackedWeight | None:
        """What the factors are added to; None when they are the whole weight."""
        return self._part("residual")

    def factors(self) -> Factors:
        """Return the factors' values."""
        left, right = self._part("left"), self._part("right")
        assert left is not None and right is not None
        return Factors(left.unpack(), right.unpack())

    def parts(self) -> dict[str, PackedWeight]:
        """Return what it is made of by name: left, right and, where there is one, residual."""
        named = {name: self._part(name) for name in ("left", "right", "residual")}
        return {name: part for name, part in named.items() if part is not None}

    def mask(self) -> Tensor:
        return torch.ones(self.shape, dtype=torch.bool, device=next(iter(self._tensors.values())).device)

    def _part(self, name: str) -> PackedWeight | None:
        if self._meta[name] is None:
            return None
        meta, tensors = reference.low_rank_part(self._meta, self._tensors, name)
        return _kind(self._meta, name).from_tensors(meta, tensors)


def residual_mask(packed: PackedWeight) -> Tensor:
    """Return which weights of the sparse part are kept: of the residual where there are factors, else of the whole."""
    if not isinstance(packed, LowRankWeight):
        return packed.mask()
    residual = packed.residual
    return torch.zeros_like(packed.mask()) if residual is None else residual.mask()


def _kind(meta: Meta, name: str) -> type[PackedWeight]:
    """Return the format of a part, after checking that it is declared and allowed there."""
    part = meta.get(name)
    if not isinstance(part, Mapping):
        fail(f"declaration: {name}", "a declaration", repr(part))
    known = RESIDUAL_FORMATS if name == "residual" else FACTOR_FORMATS
    return known[read_choice(part, "format", known)]
