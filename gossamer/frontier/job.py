"""One search: what was asked, where it works, and the clock."""

import time
from dataclasses import dataclass
from pathlib import Path

from gossamer.checkpoint.source import Source
from gossamer.frontier.budget import Budget
from gossamer.frontier.costs import Costs
from gossamer.frontier.levels import Assignment, recipe_of
from gossamer.frontier.state import State
from gossamer.progress import Progress
from gossamer.recipe.recipe import Calibration, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every part of a search needs to know."""

    source: Source
    model: str
    """As it was given."""
    budget: Budget
    calibration: Calibration
    windows: int
    """Held-out windows that perplexity is measured on."""
    seconds: float
    """That the search may take."""
    native: bool
    """The native engine runs the model."""
    costs: Costs
    out: Path
    state: State
    texts: tuple[Path, Path]
    """What to calibrate on, and what to judge by."""
    progress: Progress
    started: float
    """By `time.monotonic`."""

    def seconds_left(self) -> float:
        """Seconds until the time is up."""
        return self.seconds - (time.monotonic() - self.started)

    def recipe(self, name: str, assignment: Assignment) -> Recipe:
        """The recipe of an assignment."""
        description = f"Found by gossamer search for {self.source.path.name}: {name}."
        return recipe_of(assignment, self.costs.embedding, self.costs.head, self.calibration, description)
