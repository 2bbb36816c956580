"""How much of what the machine can multiply a run has used.

Counted are products with matrices of weights, two operations a weight and token each: the student forward, its gradient
of the inputs, its gradient of the weights where these are trained, and the teacher forward where it runs beside it.
Attention and all that is not a product are left out, so that the share says what they cost.
"""

import time

import torch
from torch import nn

from gossamer.training.kept import KeptWeight
from gossamer.training.modules import StudentLinear
from gossamer.training.student import Student

SIDE, REPEATS = 1024, 7
"""Of the square matrices that the peak is measured with, and how often; the fastest counts."""


def operations_of_token(student: Student, teacher_runs: bool) -> int:
    """Return the operations of a token in training."""
    total = 0
    for module in student.model.modules():
        if isinstance(module, StudentLinear):
            for part in module.parts.values():
                passes = 3 if isinstance(part, KeptWeight) else 2
                total += 2 * part.working_OI.numel() * (passes + teacher_runs)
        elif isinstance(module, nn.Linear):
            total += 2 * module.weight.numel() * (2 + teacher_runs)
    return total


def peak_operations(dtype: torch.dtype) -> float:
    """Measure, on all threads of torch: operations a second in products of this type."""
    left, right = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    fastest = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        torch.mm(left, right)
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * SIDE**3 / fastest
