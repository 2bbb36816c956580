"""Statistics of a linear layer's inputs: small objects, updated batch by batch and merged across workers.

`InputNorm` keeps the squared norm of each input feature (Wanda's ||x_j||), `Gram` the second-moment matrix
sum_t x_t x_t^T (the H of SparseGPT and GPTQ up to a factor), `AbsMax` the largest magnitude of each input.
Updating in any split of the tokens, or in parts that are merged, gives the same statistic to float tolerance. A
statistic is kept on the device of the inputs.

A Gram matrix holds the norms on its diagonal, so a chain such as wanda + gptq needs one statistic only:
`serves(Gram, InputNorm)` is true, and both have `norms()`. `Moments` is a Gram matrix that also knows what the
dense model's inputs were for the same tokens.

T tokens, I input features, O output features.
Not here: hooks and the forward pass (calibration/observe.py).
"""

from collections.abc import Iterable
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from gossamer.distributed.processes import Processes
from gossamer.errors import CalibrationError

CPU = torch.device("cpu")
TOKENS_PER_BLOCK = 4096
"""Tokens multiplied at once: partial sums stay short, so float32 accumulation stays accurate."""
STRIP = 192
"""Rows of a Gram matrix summed at once, from the diagonal on: a little more than half of it."""


@runtime_checkable
class Statistic(Protocol):
    """What the pipeline needs to know of a statistic."""

    num_inputs: int
    num_tokens: int

    def __init__(self, num_inputs: int, device: torch.device = CPU) -> None:
        """An empty one for inputs on that device."""

    def update(self, x_TI: Tensor) -> None:
        """Take in the inputs of some tokens; leading dimensions other than the last are all tokens."""

    def merge(self, other: Self) -> None:
        """Take in what another object of the same class has seen."""

    def merge_across(self, processes: Processes) -> None:
        """Take in what the objects that stand for the same inputs in the other processes have seen."""

    def value(self) -> Tensor:
        """Return the statistic over all tokens seen; CalibrationError if there were none."""


class InputNorm:
    """Squared norm of each input feature (Wanda, arXiv 2306.11695, eq. 1: ||X_j||_2)."""

    def __init__(self, num_inputs: int, device: torch.device = CPU) -> None:
        self.num_inputs = num_inputs
        self.num_tokens = 0
        self.sum_I = torch.zeros(num_inputs, dtype=torch.float64, device=device)

    def update(self, x_TI: Tensor) -> None:
        x_TI = _checked(x_TI, self.num_inputs)
        for x_tI in x_TI.split(TOKENS_PER_BLOCK):
            self.sum_I += x_tI.square().sum(0)
        self.num_tokens += x_TI.shape[0]

    def merge(self, other: Self) -> None:
        assert other.num_inputs == self.num_inputs
        self.sum_I += other.sum_I
        self.num_tokens += other.num_tokens

    def merge_across(self, processes: Processes) -> None:
        processes.total(self.sum_I)
        self.num_tokens = sum(processes.gathered(self.num_tokens))

    def mean_square(self) -> Tensor:
        """Return mean_t x_tj^2 as float32 [I]."""
        _require_tokens(self.num_tokens)
        return (self.sum_I / self.num_tokens).float()

    def norms(self) -> Tensor:
        """Return the root mean square of each input, float32 [I]: the l2 norm over sqrt(T), same ranking."""
        return self.mean_square().sqrt()

    def value(self) -> Tensor:
        """Return `norms()`."""
        return self.norms()


class Gram:
    """Second-moment matrix of the inputs, sum_t x_t x_t^T, accumulated in float32; the upper triangle counts."""

    def __init__(self, num_inputs: int, device: torch.device = CPU) -> None:
        self.num_inputs = num_inputs
        self.num_tokens = 0
        self.sum_II = torch.zeros(num_inputs, num_inputs, device=device)

    def update(self, x_TI: Tensor) -> None:
        x_TI = _checked(x_TI, self.num_inputs)
        for x_tI in x_TI.split(TOKENS_PER_BLOCK):
            for start in range(0, self.num_inputs, STRIP):
                rows = slice(start, start + STRIP)
                self.sum_II[rows, start:].addmm_(x_tI[:, rows].T, x_tI[:, start:])
        self.num_tokens += x_TI.shape[0]

    def merge(self, other: Self) -> None:
        assert other.num_inputs == self.num_inputs
        self.sum_II += other.sum_II
        self.num_tokens += other.num_tokens

    def merge_across(self, processes: Processes) -> None:
        processes.total(self.sum_II)
        self.num_tokens = sum(processes.gathered(self.num_tokens))

    def mean_square(self) -> Tensor:
        """Return the diagonal of `value()`: mean_t x_tj^2, float32 [I]."""
        _require_tokens(self.num_tokens)
        return self.sum_II.diagonal() / self.num_tokens

    def norms(self) -> Tensor:
        """Return what `InputNorm.norms` would: the root mean square of each input, float32 [I]."""
        return self.mean_square().sqrt()

    def value(self) -> Tensor:
        """Return mean_t x_t x_t^T, float32 [I, I], symmetric."""
        _require_tokens(self.num_tokens)
        return self._whole().div_(self.num_tokens)

    def _whole(self) -> Tensor:
        """The sum with its lower triangle, which is the mirrored upper one."""
        whole_II = self.sum_II.triu()
        return whole_II.add_(self.sum_II.triu(1).T)


class Moments(Gram):
    """The Gram matrix of inputs x', with what relates them to the dense model (GPTAQ, arXiv 2504.02692).

    `cross` is sum_t x_t x'_t^T, x the dense model's inputs. Where the output of one linear is added to a residual
    stream r, `wanted` stands for it: sum_t (W x_t + r_t - r'_t) x'_t^T, of what this linear should give the stream.
    """

    def __init__(self, num_inputs: int, device: torch.device = CPU) -> None:
        super().__init__(num_inputs, device)
        self.cross_II: Tensor | None = None
        self.wanted_OI: Tensor | None = None

    def update_pair(self, x_TI: Tensor, dense_TI: Tensor) -> None:
        """Take in the inputs of some tokens in both models."""
        self.cross_II = self._added(self.cross_II, x_TI, dense_TI)

    def update_wanted(self, x_TI: Tensor, wanted_TO: Tensor) -> None:
        """Take in the inputs of some tokens, and W x + r - r', what the linear should make of them."""
        self.wanted_OI = self._added(self.wanted_OI, x_TI, wanted_TO)

    def _added(self, sum_NI: Tensor | None, x_TI: Tensor, other_TN: Tensor) -> Tensor:
        self.update(x_TI)
        x_TI = x_TI.detach().reshape(-1, self.num_inputs).float()
        other_TN = other_TN.detach().reshape(len(x_TI), -1).float()
        if sum_NI is None:
            return other_TN.T @ x_TI
        return sum_NI.addmm_(other_TN.T, x_TI)

    def merge(self, other: Self) -> None:
        super().merge(other)
        self.cross_II = _sum(self.cross_II, other.cross_II)
        self.wanted_OI = _sum(self.wanted_OI, other.wanted_OI)

    def merge_across(self, processes: Processes) -> None:
        super().merge_across(processes)
        self.cross_II = self._total(self.cross_II, processes)
        self.wanted_OI = self._total(self.wanted_OI, processes)

    def _total(self, own_NI: Tensor | None, processes: Processes) -> Tensor | None:
        """The sum over all processes, of which some may have none."""
        sizes = [
            size for size in processes.gathered(None if own_NI is None else len(own_NI)) if size is not None
        ]
        if not sizes:
            return None
        return processes.total(self.sum_II.new_zeros(sizes[0], self.num_inputs) if own_NI is None else own_NI)

    def missing(self, dense_OI: Tensor, weight_OI: Tensor) -> Tensor:
        """Return mean_t (W x_t + r_t - r'_t - W' x'_t) x'_t^T, float32 [O, I]: what the outputs of W' lack."""
        _require_tokens(self.num_tokens)
        missing_OI = -(weight_OI @ self._whole())
        if self.cross_II is not None:
            missing_OI.addmm_(dense_OI, self.cross_II)
        if self.wanted_OI is not None:
            missing_OI += self.wanted_OI
        return missing_OI / self.num_tokens

    def forget_dense(self) -> None:
        """Keep the Gram matrix only."""
        self.cross_II = self.wanted_OI = None


class AbsMax:
    """Largest magnitude of each input feature."""

    def __init__(self, num_inputs: int, device: torch.device = CPU) -> None:
        self.num_inputs = num_inputs
        self.num_tokens = 0
        self.maximum_I = torch.zeros(num_inputs, device=device)

    def update(self, x_TI: Tensor) -> None:
        x_TI = _checked(x_TI, self.num_inputs)
        if x_TI.shape[0]:
            self.maximum_I = torch.maximum(self.maximum_I, x_TI.abs().amax(0))
        self.num_tokens += x_TI.shape[0]

    def merge(self, other: Self) -> None:
        assert other.num_inputs == self.num_inputs
        self.maximum_I = torch.maximum(self.maximum_I, other.maximum_I)
        self.num_tokens += other.num_tokens

    def merge_across(self, processes: Processes) -> None:
        processes.largest(self.maximum_I)
        self.num_tokens = sum(processes.gathered(self.num_tokens))

    def value(self) -> Tensor:
        """Return max_t |x_tj|, float32 [I]."""
        _require_tokens(self.num_tokens)
        return self.maximum_I.clone()


def _sum(own_NI: Tensor | None, other_NI: Tensor | None) -> Tensor | None:
    if own_NI is None or other_NI is None:
        return other_NI if own_NI is None else own_NI
    return own_NI + other_NI


def serves(collected: type[Statistic], needed: type[Statistic]) -> bool:
    """Return whether a method that needs one statistic can use another: a Gram matrix holds the norms."""
    return collected is needed or (collected is Gram and needed is InputNorm)


def to_collect(needed: Iterable[type[Statistic] | None]) -> list[type[Statistic]]:
    """Return the fewest statistics that serve every need of a layer's steps, in the order first needed."""
    distinct = list(dict.fromkeys(need for need in needed if need is not None))
    return [
        need for need in distinct if not any(other is not need and serves(other, need) for other in distinct)
    ]


def _checked(x_TI: Tensor, num_inputs: int) -> Tensor:
    """Return the inputs as float32 [T, I]; CalibrationError if any token holds NaN or infinity."""
    assert x_TI.shape[-1] == num_inputs, f"{x_TI.shape[-1]} inputs given to a statistic of {num_inputs}"
    x_TI = x_TI.detach().reshape(-1, num_inputs).float()
    if not bool(torch.isfinite(x_TI.sum())):  # one cheap pass; look closer only when it looks wrong
        bad_T = ~torch.isfinite(x_TI).all(dim=1)
        if bool(bad_T.any()):
            raise CalibrationError(
                f"the calibration inputs hold NaN or infinite values in {int(bad_T.sum())} of {x_TI.shape[0]}"
                f" tokens (the first is token {int(bad_T.nonzero()[0])}); finite numbers were expected. Check"
                " the parent model's weights, or whether an earlier step broke the layers before this one."
            )
    return x_TI


def _require_tokens(num_tokens: int) -> None:
    if num_tokens == 0:
        raise CalibrationError(
            "no calibration token reached this layer, at least one was expected. Give more or longer samples,"
            " or leave the layer out of the recipe (for example an expert that is never chosen)."
        )
