"""3BASiL: a sparse and a low-rank part found together on the whole Gram matrix (Makni et al. 2026, arXiv 2603.01376).

Minimises tr((W - S - L) H (W - S - L)^T) over S with a given number of weights kept and L = A B of rank R, H the damped
Gram matrix, with inputs scaled to unit norm. ADMM as in methods/solve/alternate.py, with a third block:

    Z = the largest entries of S + U, the others zero
    U = U + S - Z
    L = the best product of rank R for W - Z              (methods/solve/low_rank.py, from where the last one ended)
    S = ((W - L) H + rho (Z - U)) (H + rho I)^-1

When the mask has settled, S by conjugate gradients on it (methods/solve/conjugate.py) and L in closed form take
turns. The published code lets rho grow more slowly and trains both parts block by block afterwards.

Shapes: O output features, I input features, R the rank; K columns as methods/solve/low_rank.py says.
Cost:   O * I^2 + K (2 O I + I^2) multiply-adds an iteration, an inverse of I x I for each value of rho.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from gossamer.calibration.statistics import Gram, Statistic
from gossamer.formats.factors import Factors
from gossamer.methods.solve.alternate import alternate, unit_norm
from gossamer.methods.solve.conjugate import fit_kept
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.low_rank import LowRankTarget, start, turn, within
from gossamer.methods.solve.settings import Evidence
from gossamer.methods.solve.target import PruneTarget

CONJUGATE_STEPS = 4
"""Of each turn of the refit."""


class BASiL(PruneTarget, LowRankTarget):
    """Settings of 3BASiL; sparsity and pattern are those of the sparse part alone."""

    needs: ClassVar[type[Statistic] | None] = Gram

    iterations: int = Field(default=20, ge=1, le=1000)
    """Rounds of the four updates."""
    refit: int = Field(default=1, ge=0, le=1000)
    """Turns of the two parts on the final mask."""
    damping: float = Field(default=0.01, ge=0.0, le=1.0)
    """Added to the Gram matrix's diagonal, as a share of its mean; raised and reported if not enough."""


def apply(layer: LayerWeight, statistic: Evidence | None, settings: BASiL, notes: list[str]) -> LayerWeight:
    """Return the layer as a sparse part and factors; weights that are pruned already stay out of the sparse part.

    RecipeError if the layer is quantized already, CalibrationError if the Gram matrix cannot be used.
    """
    assert isinstance(statistic, Gram), "basil needs Gram"
    layer.require_changeable("basil")
    hessian_II, scale_I = unit_norm(statistic.value(), settings.damping, notes)
    target_OI = layer.whole_target_OI / scale_I
    low_rank = _LowRank(target_OI, hessian_II, settings.rank_for(*target_OI.shape))
    sparse_OI, mask_OI = alternate(
        target_OI, hessian_II, layer.mask_OI, settings, settings.iterations, low_rank.image_beside
    )
    for _ in range(settings.refit):
        rest_OI = target_OI - low_rank.product()
        sparse_OI = fit_kept(sparse_OI, mask_OI, rest_OI, hessian_II, CONJUGATE_STEPS)
        low_rank.fit(sparse_OI)
    factors = Factors.rounded(low_rank.left_OR, low_rank.right_RI * scale_I)
    return layer.with_factors(factors).with_weight(sparse_OI * scale_I).pruned(mask_OI)


class _LowRank:
    """The low-rank part of a target, fitted again and again to what changing sparse parts leave."""

    def __init__(self, target_OI: Tensor, hessian_II: Tensor, rank: int) -> None:
        self.target_OI, self.hessian_II, self.rank = target_OI, hessian_II, rank
        self.basis_OK = start(target_OI, rank)

    def fit(self, sparse_OI: Tensor) -> None:
        rest_OI = self.target_OI - sparse_OI
        self.basis_OK = turn(rest_OI, self.hessian_II, self.basis_OK)
        self.left_OR, self.right_RI = within(rest_OI, self.hessian_II, self.basis_OK, self.rank)

    def image_beside(self, sparse_OI: Tensor) -> Tensor:
        """Fit the low-rank part to what the sparse one leaves, and return its product with H."""
        self.fit(sparse_OI)
        return self.left_OR @ (self.right_RI @ self.hessian_II)

    def product(self) -> Tensor:
        return self.left_OR @ self.right_RI
