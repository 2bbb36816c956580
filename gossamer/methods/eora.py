"""EoRA: a low-rank part that gives back what pruning and quantizing have taken (Liu et al. 2024, arXiv 2410.21271).

Minimises tr((E - A B) H (E - A B)^T), E the target minus the compressed weight, in closed form: the paper projects E
on the eigenvectors of the Gram matrix, scaled by the roots of its eigenvalues, and truncates (section 3, eq. 4 to 6);
methods/solve/low_rank.py finds the same product. The compressed weight, its mask and its codes stay as they are, so
this is the last step. A low-rank part that is there already is replaced by the best one for what the weight has become.

Shapes: O output features, I input features, R the rank; K columns as methods/solve/low_rank.py says.
Cost:   8 K (2 O I + I^2) multiply-adds.
"""

from typing import ClassVar

from pydantic import Field

from gossamer.calibration.statistics import Gram, Statistic
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.linear_algebra import damped_factor
from gossamer.methods.solve.low_rank import LowRankTarget, best_factors
from gossamer.methods.solve.settings import Evidence


class EoRA(LowRankTarget):
    """Settings of EoRA."""

    needs: ClassVar[type[Statistic] | None] = Gram

    damping: float = Field(default=0.01, ge=0.0, le=1.0)
    """Added to the Gram matrix's diagonal, as a share of its mean; raised and reported if not enough."""


def apply(layer: LayerWeight, statistic: Evidence | None, settings: EoRA, notes: list[str]) -> LayerWeight:
    """Return the layer with the low-rank part that its outputs lack most.

    CheckpointError if a weight is not finite, CalibrationError if the Gram matrix cannot be used.
    """
    assert isinstance(statistic, Gram), "eora needs Gram"
    layer.require_finite("eora")
    missing_OI = layer.whole_target_OI - layer.weight_OI
    if not bool(missing_OI.any()):
        notes.append("eora found nothing to give back: the weight is what it is fitted to")
        return layer
    hessian_II = damped_factor(statistic.value(), settings.damping, notes).damped_II.float()
    rank = settings.rank_for(*missing_OI.shape)
    return layer.with_factors(best_factors(missing_OI, hessian_II, rank))
