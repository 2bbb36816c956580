"""One linear layer's weight as it passes from step to step of a recipe.

O output features, I input features.
"""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from gossamer.errors import CheckpointError, RecipeError
from gossamer.formats.factors import Factors
from gossamer.formats.quantized import Quantized


@dataclass(frozen=True, slots=True)
class LayerWeight:
    """The weight, what is kept of it, its codes if it has been quantized, and factors if it has a low-rank part.

    ``weight_OI`` always holds the values that the packed layer will have: zeros where the mask is False,
    dequantized values where there are codes. With factors it is what they are added to, and so are mask, codes and
    ``target_OI``: a step that prunes, fits or quantizes does not need to know of them.
    """

    weight_OI: Tensor
    """float32."""
    mask_OI: Tensor | None = None
    """bool, True = kept; None = every weight is kept."""
    quantized: Quantized | None = None
    target_OI: Tensor = field(default=None)  # type: ignore[assignment]
    """What the weight was at first, less what the factors give, for steps that fit it again; else `weight_OI`."""
    factors: Factors | None = None

    def __post_init__(self) -> None:
        if self.target_OI is None:
            object.__setattr__(self, "target_OI", self.weight_OI)

    @property
    def whole_OI(self) -> Tensor:
        """The weight together with its low-rank part."""
        return self.weight_OI if self.factors is None else self.weight_OI + self.factors.product()

    @property
    def whole_target_OI(self) -> Tensor:
        """What weight and low-rank part together are fitted to."""
        return self.target_OI if self.factors is None else self.target_OI + self.factors.product()

    def with_factors(self, factors: Factors) -> Self:
        """Return the layer with another low-rank part; the target loses what that gives, the weight stays."""
        return replace(self, factors=factors, target_OI=self.whole_target_OI - factors.product())

    def weighed(self, scale_O: Tensor) -> Self:
        """Return the layer, which has no factors, with each output scaled: its squared error then counts scale^2."""
        scale_O1 = scale_O[:, None]
        return replace(self, weight_OI=self.weight_OI * scale_O1, target_OI=self.target_OI * scale_O1)

    def with_weight(self, weight_OI: Tensor) -> Self:
        """Return the layer with other values of its weights."""
        return replace(self, weight_OI=weight_OI)

    def pruned(self, mask_OI: Tensor) -> Self:
        """Return the layer with the weights outside the mask set to zero, and nothing else changed."""
        return replace(self, weight_OI=self.weight_OI.masked_fill(~mask_OI, 0.0), mask_OI=mask_OI)

    def with_codes(self, quantized: Quantized) -> Self:
        """Return the layer with the values of its codes; pruned weights stay zero and get the code of zero.

        An asymmetric grid need not have a code for zero; there pruned weights get code 0, and the mask
        decides.
        """
        weight_OI = quantized.dequantize()
        if self.mask_OI is not None:
            pruned_OI = ~self.mask_OI
            weight_OI.masked_fill_(pruned_OI, 0.0)
            code = 2 ** (quantized.bits - 1) if quantized.symmetric else 0
            quantized = replace(quantized, codes_OI=quantized.codes_OI.masked_fill(pruned_OI, code))
        return replace(self, weight_OI=weight_OI, quantized=quantized)

    def require_changeable(self, method: str) -> None:
        """Raise RecipeError if the layer is quantized already, CheckpointError if it is not finite."""
        if self.quantized is not None:
            raise RecipeError(
                f"{method} was given a layer that an earlier step has quantized to {self.quantized.bits}"
                " bits. Prune first, quantize last, and only once: reorder the steps or narrow their layers."
            )
        self.require_finite(method)

    def require_finite(self, method: str) -> None:
        """Raise CheckpointError if a weight is NaN or infinite."""
        if not bool(torch.isfinite(self.weight_OI).all()):
            bad = int((~torch.isfinite(self.weight_OI)).sum())
            raise CheckpointError(
                f"{method} was given a weight with {bad} NaN or infinite values of {self.weight_OI.numel()};"
                " finite numbers were expected. The file is damaged or of a type that is not float."
            )
