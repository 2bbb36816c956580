"""How much to prune and in which pattern: the settings that the pruning methods share."""

from typing import Literal, Self

from pydantic import Field, model_validator

from gossamer.errors import RecipeError
from gossamer.methods.solve.pattern import NM, PatternField, RowWindows, Unstructured
from gossamer.methods.solve.settings import MethodSettings


class PruneTarget(MethodSettings):
    """Sparsity and pattern. For N:M the pattern implies the sparsity, which may then be left out."""

    sparsity: float | None = Field(default=None, ge=0.0, lt=1.0, allow_inf_nan=False)
    """Share of the layer's weights that are zero afterwards, 0 <= sparsity < 1; 0.5 when left out, for N:M
    what the pattern implies."""
    pattern: PatternField = Unstructured()
    """unstructured, row, N:M such as "2:4" or "8:16", or "block 4x16"."""

    scope: Literal["layer", "global"] = "layer"
    """layer: reach the sparsity in every layer; global: over all layers of the step together, those pruned least
    that the model needs most (methods/allocate/saliency.py; magnitude: one threshold for |w|). N:M then is the
    average of N, and each row of a layer has its own."""

    @model_validator(mode="after")
    def _global_compares_weights(self) -> Self:
        if self.scope == "global" and not isinstance(self.pattern, Unstructured | NM | RowWindows):
            raise ValueError(
                "scope global compares single weights over all layers, so pattern 'unstructured' or N:M was"
                f" expected, not '{self.pattern}'. Use scope layer, or another pattern."
            )
        return self

    @model_validator(mode="after")
    def _sparsity_agrees_with_pattern(self) -> Self:
        if isinstance(self.pattern, NM) and self.sparsity is not None:
            try:
                self.pattern.require(self.sparsity)
            except RecipeError as error:
                raise ValueError(str(error)) from error  # pydantic adds the place in the recipe
        return self

    @property
    def is_global(self) -> bool:
        return self.scope == "global"

    @property
    def shares_sparsity(self) -> bool:
        return self.is_global and self.needs is not None

    @property
    def by_row(self) -> bool:
        """True if the mask of each row is chosen for itself, so that it does not matter how rows are weighed."""
        return isinstance(self.pattern, NM | RowWindows)

    @property
    def share(self) -> float:
        """The sparsity to reach."""
        if self.sparsity is not None:
            return self.sparsity
        return self.pattern.sparsity if isinstance(self.pattern, NM | RowWindows) else 0.5
