"""How a student is trained."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from gossamer.errors import UsageError
from gossamer.training.exchange import ALL_REDUCES, AllReduce
from gossamer.training.kept import Kind
from gossamer.training.moving import MASK_MODES, MaskMode
from gossamer.training.objective import Objective
from gossamer.training.precision import PRECISIONS, Precision, chosen
from gossamer.training.student import MODES, Mode

TeacherEngine = Literal["torch", "native"]
TEACHER_ENGINES: tuple[TeacherEngine, ...] = ("torch", "native")
LEARNING_RATES: dict[Mode, float] = {"all": 2e-4, "lora": 1e-3, "norms": 1e-3}
FACTORS: dict[Kind, float] = {"weight": 1.0, "scale": 5.0}
"""A step of AdamW at a learning rate of 1: in weights, in shares of a scale."""
TOKENS_AT_ONCE = 1024
"""In one forward pass, where windows are not longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSettings:
    """All that may be chosen; the defaults are for pure distillation from the parent."""

    train: Mode = "all"
    """all: kept weights, norms, biases, scales, factors; lora: masked adapters in place of the weights; norms: norms
    and biases alone."""
    embeddings: bool = False
    """Train the token embedding and the output head too."""
    learning_rate: float | None = None
    """AdamW's, after a short warm-up; None: what suits the mode."""
    mask: MaskMode = "fixed"
    """Whether zeros move on the way (moving.py)."""
    batch: int = 4
    """Windows in a step."""
    length: int | None = None
    """Tokens in a window; None: 512, or what the model can take."""
    rank: int = 16
    """Of the adapters."""
    temperature: float = 1.0
    """Of both softmaxes of the divergence."""
    labels: float = 0.0
    """Weight of the cross entropy of the text itself."""
    hidden: float = 0.0
    """Weight of the hidden states."""
    teacher_engine: TeacherEngine = "torch"
    """What runs the parent on the text that is learnt from: torch, exactly; or the native engine with int8 activations,
    which is several times as fast where the parent is stored in few bits. The held-out text is judged by torch."""
    checkpointing: bool = False
    """Run each block a second time in the backward pass, instead of keeping what is inside it."""
    precision: Precision = "auto"
    """Of the products in training: bfloat16 where the CPU has instructions for it, or one of the two. What is trained,
    gradients, and all that is judged are float32 either way."""
    seed: int = 0
    """Which windows come when, and how adapters begin."""
    all_reduce: AllReduce = "exact"
    """How several processes add up their gradients: as they are, or rounded to bfloat16."""

    def __post_init__(self) -> None:
        rate = self.rate
        for name, value, good, wanted in (
            ("train", self.train, self.train in MODES, f"one of {', '.join(MODES)}"),
            ("mask", self.mask, self.mask in MASK_MODES, f"one of {', '.join(MASK_MODES)}"),
            ("learning-rate", rate, 0 < rate <= 1, "a number above 0 and at most 1"),
            ("batch", self.batch, self.batch >= 1, "at least 1"),
            ("rank", self.rank, self.rank >= 1, "at least 1"),
            ("temperature", self.temperature, 0.1 <= self.temperature <= 100, "a number from 0.1 to 100"),
            ("labels", self.labels, 0 <= self.labels < math.inf, "a number of at least 0"),
            (
                "precision",
                self.precision,
                self.precision in PRECISIONS,
                f"one of {', '.join(PRECISIONS)}",
            ),
            (
                "all-reduce",
                self.all_reduce,
                self.all_reduce in ALL_REDUCES,
                f"one of {', '.join(ALL_REDUCES)}",
            ),
            ("hidden", self.hidden, 0 <= self.hidden < math.inf, "a number of at least 0"),
            (
                "teacher-engine",
                self.teacher_engine,
                self.teacher_engine in TEACHER_ENGINES,
                f"one of {', '.join(TEACHER_ENGINES)}",
            ),
        ):
            if not good:
                raise UsageError(f"--{name} {value}: {wanted} was expected.")
        if self.mask != "fixed" and self.train != "all":
            raise UsageError(f"--mask {self.mask}: zeros move where weights are trained. Leave --train out.")
        if self.hidden and self.teacher_engine == "native":
            raise UsageError(
                "--hidden: the native engine gives no hidden states. Leave --teacher-engine native out."
            )

    @property
    def rate(self) -> float:
        """The learning rate."""
        return LEARNING_RATES.get(self.train, 0.0) if self.learning_rate is None else self.learning_rate

    @property
    def dtype(self) -> torch.dtype:
        """Of the products in training, on this machine."""
        return chosen(self.precision)

    @property
    def objective(self) -> Objective:
        return Objective(self.temperature, self.labels, self.hidden)

    def at_once(self, length: int) -> int:
        """Windows in one forward pass."""
        return max(1, min(self.batch, TOKENS_AT_ONCE // length))
