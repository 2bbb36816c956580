"""What all settings of methods have in common, and what a method is shown beside the weight."""

from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gossamer.calibration.statistics import Statistic


class Evidence(Protocol):
    """What a method goes by beside the weight: a statistic of the layer's inputs, or a threshold for all layers."""

    def value(self) -> Tensor | float:
        """Return what was found; CalibrationError if nothing was seen."""


class MethodSettings(BaseModel):
    """Frozen settings of a method. A recipe may hold no other keys than their fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    needs: ClassVar[type[Statistic] | None] = None
    """The statistic of a layer's inputs that the method has to be shown."""

    @property
    def is_global(self) -> bool:
        """True if one sparsity is meant for all layers of the step together."""
        return False

    @property
    def shares_sparsity(self) -> bool:
        """True if layers get sparsities by what their weights cost the model."""
        return False

    @property
    def shares_bits(self) -> bool:
        """True if layers get bits by what rounding them costs the model."""
        return False
