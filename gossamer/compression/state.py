"""What a run has reached: all that changes from block to block, beside the weights of its models."""

import time
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gossamer.compression.layer import BlockReport, LayerReport
from gossamer.compression.sharing import Sharing


@dataclass
class RunState:
    """What a run has reached. N samples, L tokens in a sample."""

    ids_NL: Tensor
    """The windows of text."""
    calibration: dict[str, Any]
    """Where they come from; JSON."""
    sharing: Sharing
    notes: list[str]
    done: int = 0
    """Blocks that are finished."""
    packed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The declaration of every matrix that was packed, by name; JSON."""
    tied: dict[str, str] = field(default_factory=dict)
    """Modules that have the packed matrix of another one."""
    written: set[str] = field(default_factory=set)
    """Parameters that are written, or never will be because they are another one's copy."""
    reports: list[LayerReport] = field(default_factory=list)
    blocks: list[BlockReport] = field(default_factory=list)
    resumed: int = 0
    """How often the run was gone on with."""
    seconds_before: float = 0.0
    """What the processes before have taken."""
    phases: dict[str, float] = field(default_factory=dict)
    """The same by phase."""
    started: float = field(default_factory=time.monotonic)
    keeping: tuple[float, float] = (0.0, 0.0)
    """Seconds that keeping the state has taken: in all, and the last time."""

    def seconds(self) -> float:
        """Time that the run took so far, in all the processes that worked on it."""
        return self.seconds_before + time.monotonic() - self.started
