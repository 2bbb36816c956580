"""Wanda: prune by |weight| times the norm of its input (Sun et al. 2023, arXiv 2306.11695, eq. 1).

S_ij = |W_ij| * ||X_j||_2, compared within each output row, which the paper found better than within the
layer; so "unstructured" keeps the same number in every row, as published. N:M compares within m inputs of
a row. Blocks (not in the paper) compare summed scores over the layer.

Shapes: O output features, I input features.
Cost:   one norm for each input and one partial sort; no inverse, no update of the kept weights.
"""

from typing import ClassVar

from gossamer.calibration.statistics import Gram, InputNorm, Statistic
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.methods.solve.pattern import RowBalanced, Unstructured
from gossamer.methods.solve.settings import Evidence
from gossamer.methods.solve.target import PruneTarget


class Wanda(PruneTarget):
    """Settings of Wanda."""

    needs: ClassVar[type[Statistic] | None] = InputNorm

    @property
    def by_row(self) -> bool:
        return True


def apply(layer: LayerWeight, statistic: Evidence | None, settings: Wanda, notes: list[str]) -> LayerWeight:
    """Return the layer without the weights of smallest score; RecipeError if it is quantized already."""
    assert isinstance(statistic, InputNorm | Gram), "wanda needs InputNorm or Gram"
    layer.require_changeable("wanda")
    norm_I = statistic.norms()
    if dead := int((norm_I == 0).sum()):
        notes.append(f"{dead} of {norm_I.numel()} inputs are zero in all calibration data: pruned first")
    pattern = RowBalanced() if isinstance(settings.pattern, Unstructured) else settings.pattern
    score_OI = layer.weight_OI.abs() * norm_I
    return layer.pruned(pattern.keep_largest(score_OI, settings.share, layer.mask_OI))
