"""The two factors of a low-rank part: what a method decided, before a format packs it.

O output features, I input features, R the rank.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gossamer.errors import FormatError


@dataclass(frozen=True, slots=True)
class Factors:
    """A product of rank R. Both hold float32 values that float16 represents exactly: packing loses nothing."""

    left_OR: Tensor
    right_RI: Tensor

    @classmethod
    def rounded(cls, left_OR: Tensor, right_RI: Tensor) -> Self:
        """Return the factors in float16 values, after their columns and rows were given equal norms.

        FormatError when one does not fit in float16: values too large, or too small to be told from zero.
        """
        size_R = (right_RI.norm(dim=1) / left_OR.norm(dim=0)).sqrt()
        size_R = torch.where(torch.isfinite(size_R) & (size_R > 0), size_R, 1.0)
        left_OR, right_RI = left_OR * size_R, right_RI / size_R[:, None]
        return cls(_in_float16("left", left_OR), _in_float16("right", right_RI))

    @property
    def rank(self) -> int:
        return self.left_OR.shape[1]

    def product(self) -> Tensor:
        """Return the weight [O, I] that the factors stand for, float32."""
        return self.left_OR @ self.right_RI


def _in_float16(name: str, factor: Tensor) -> Tensor:
    """Return the factor in float16 values; FormatError when that takes more than a hundredth of its norm."""
    rounded = factor.half().float()
    if not bool((rounded - factor).norm() <= 1e-2 * factor.norm()):
        low, high = (float(bound) for bound in factor.abs().aminmax())
        raise FormatError(
            f"{name} factor: expected values that float16 holds, got {low:.2g} to {high:.2g}. "
            "Give this layer no low-rank part."
        )
    return rounded.contiguous()
