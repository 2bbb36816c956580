"""Recipes: what is done to which layer, as frozen values that read from and write to YAML without loss.

A recipe is a list of steps, applied in order to each linear that their globs match:

    calibration: {samples: 32, length: 512, seed: 0}
    steps:
      - {layers: "*.mlp.*", method: sparsegpt, sparsity: 0.5, pattern: "8:16"}
      - {layers: "*", method: gptq, bits: 4, group_size: 64}
      - {layers: embeddings, method: rtn, bits: 8}
    skip: ["*.down_proj"]

Globs match the linears inside blocks. The words `embeddings` and `head` stand for the token embeddings and the
output head; a full name without wildcards matches whatever bears it. `sparsity` may be a table of globs
(`{"*.mlp.*": 0.6, "*": 0.4}`, first match wins): a layered target.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from gossamer.calibration.statistics import Statistic
from gossamer.methods.solve.settings import MethodSettings
from gossamer.recipe.table import METHODS

EMBEDDINGS, HEAD = "embeddings", "head"


class Calibration(BaseModel):
    """How many windows of text are shown to the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(default=32, ge=1)
    length: int = Field(default=512, ge=8)
    seed: int = 0
    align: bool = True
    """Fit each layer to the dense model's outputs; false: to its own on what the compressed layers before give."""


@dataclass(frozen=True)
class Step:
    """One line of a recipe."""

    layers: tuple[str, ...]
    method: str
    settings: MethodSettings
    sparsity_by_glob: tuple[tuple[str, float], ...] = ()

    @property
    def needs(self) -> type[Statistic] | None:
        """The statistic that the method asks for."""
        return self.settings.needs

    @property
    def trains(self) -> bool:
        """True if it trains a whole block."""
        return METHODS[self.method].trains

    @property
    def prunes_by_weight(self) -> bool:
        """True if it prunes, and looks at nothing but the weights."""
        method = METHODS[self.method]
        return self.needs is None and not method.trains and not method.quantizes

    @property
    def needs_text(self) -> bool:
        """True if the model has to be shown text for it."""
        return self.trains or self.needs is not None

    @property
    def shares_sparsity(self) -> bool:
        """True if its sparsity is one over all its layers, by what their weights cost the model."""
        return self.settings.shares_sparsity

    @property
    def shares_bits(self) -> bool:
        """True if its layers get bits by what rounding them costs the model."""
        return self.settings.shares_bits

    def matches(self, name: str, part: str) -> bool:
        """True if the step is meant for the module `name`, which lies in `part` (linear, embeddings or head)."""
        return any(_glob_matches(glob, name, part) for glob in self.layers)

    def for_layer(self, name: str) -> "Step | None":
        """The step with the sparsity that its table gives to `name`; None where no glob of the table matches."""
        if not self.sparsity_by_glob:
            return self
        for glob, sparsity in self.sparsity_by_glob:
            if fnmatchcase(name, glob):
                settings = self.settings.model_copy(update={"sparsity": sparsity})
                return Step(self.layers, self.method, settings)
        return None

    def to_dict(self) -> dict[str, Any]:
        settings = self.settings.model_dump(mode="json", exclude_defaults=True)
        if self.sparsity_by_glob:
            settings["sparsity"] = dict(self.sparsity_by_glob)
        layers = self.layers[0] if len(self.layers) == 1 else list(self.layers)
        return {"layers": layers, "method": self.method, **settings}


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. Build one with `load_recipe` or `parse_recipe`."""

    steps: tuple[Step, ...]
    calibration: Calibration = field(default_factory=Calibration)
    skip: tuple[str, ...] = ()
    description: str = ""

    def select(self, names: Iterable[str], part: str = "linear") -> dict[str, tuple[Step, ...]]:
        """The steps for each of `names`, in order; names without a step are left out."""
        selected = {}
        for name in names:
            if any(_glob_matches(glob, name, part) for glob in self.skip):
                continue
            resolved = [step.for_layer(name) for step in self.steps if step.matches(name, part)]
            steps = tuple(step for step in resolved if step is not None)
            if steps:
                selected[name] = steps
        return selected

    @cached_property
    def needs_calibration(self) -> bool:
        return any(step.needs_text for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        return {
            "description": self.description,
            "calibration": self.calibration.model_dump(),
            "steps": [step.to_dict() for step in self.steps],
            "skip": list(self.skip),
        }

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=100)


def _glob_matches(glob: str, name: str, part: str) -> bool:
    if part == "linear":
        return fnmatchcase(name, glob)
    return glob in (part, name)
