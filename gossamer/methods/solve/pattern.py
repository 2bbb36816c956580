"""Which weights may be pruned together: unstructured, row-balanced, N:M, blocks.

A pattern turns scores (larger = keep, never negative) into a mask with an exact number of kept units:
unstructured keeps round(density * O * I) weights, row-balanced round(density * I) in every row, N:M keeps
n of every m consecutive inputs of a row (Mishra et al. 2021, arXiv 2104.08378), blocks keep round(density
* cells) cells of r x c weights by their summed score. Equal scores are settled by position: the first one
in memory order stays.

O output features, I input features, R x N rows that are compared within, W windows, Y x X grid of block
cells.
Cost: one partial sort (numpy's introselect) of the scores.
"""

import re
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from torch import Tensor

from gossamer.errors import RecipeError

MAX_WINDOW = 32
MAX_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Unstructured:
    """Any weight of the layer may go."""

    def num_kept(self, num_rows: int, num_inputs: int, sparsity: float) -> int:
        """Return how many weights of the layer stay."""
        return round((1 - sparsity) * num_rows * num_inputs)

    def keep(self, score_OI: Tensor, count: int, within_OI: Tensor | None = None) -> Tensor:
        """Return mask_OI that keeps the `count` largest scores, only where `within_OI` is True."""
        score_RN = _scores_within(score_OI, within_OI).reshape(1, -1)
        return _only(_largest(score_RN, count).view(score_OI.shape), within_OI)

    def keep_largest(self, score_OI: Tensor, sparsity: float, within_OI: Tensor | None = None) -> Tensor:
        """Return mask_OI with a share of `sparsity` zeros, only where `within_OI` is True."""
        return self.keep(score_OI, self.num_kept(score_OI.shape[0], score_OI.shape[1], sparsity), within_OI)

    def __str__(self) -> str:
        return "unstructured"


@dataclass(frozen=True, slots=True)
class RowBalanced:
    """Every row keeps the same number of weights."""

    def num_kept(self, num_rows: int, num_inputs: int, sparsity: float) -> int:
        """Return how many weights of each row stay."""
        return round((1 - sparsity) * num_inputs)

    def keep(self, score_OI: Tensor, count: int, within_OI: Tensor | None = None) -> Tensor:
        """Return mask_OI that keeps the `count` largest scores of each row, only within `within_OI`."""
        return _only(_largest(_scores_within(score_OI, within_OI), count), within_OI)

    def keep_largest(self, score_OI: Tensor, sparsity: float, within_OI: Tensor | None = None) -> Tensor:
        """Return mask_OI with a share of `sparsity` zeros in each row, only where `within_OI` is True."""
        return self.keep(score_OI, self.num_kept(score_OI.shape[0], score_OI.shape[1], sparsity), within_OI)

    def __str__(self) -> str:
        return "row"


@dataclass(frozen=True, slots=True)
class NM:
    """n of every m consecutive inputs of a row stay; a last partial window keeps ceil(n/m * its length)."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m <= MAX_WINDOW:
            raise RecipeError(
                f"pattern {self.n}:{self.m}: N:M keeps N of every M consecutive inputs, so 1 <= N < M <="
                f" {MAX_WINDOW} was expected. Use for example 2:4, 4:8, 8:16 or 4:16."
            )

    @property
    def sparsity(self) -> float:
        """The share of zeros that the pattern implies."""
        return 1 - self.n / self.m

    def require(self, sparsity: float) -> None:
        """Raise RecipeError if `sparsity` is not what the pattern implies."""
        if abs(sparsity - self.sparsity) > 1e-6:
            raise RecipeError(
                f"pattern {self} implies sparsity {self.sparsity:g}, but sparsity {sparsity:g} was given."
                f" Leave sparsity out, set it to {self.sparsity:g}, or choose another pattern."
            )

    def keep_largest(self, score_OI: Tensor, sparsity: float, within_OI: Tensor | None = None) -> Tensor:
        """Return mask_OI; RecipeError if `sparsity` is not what the pattern implies."""
        self.require(sparsity)
        return _keep_windows(score_OI, self.n, self.m, within_OI)

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


@dataclass(frozen=True, slots=True)
class RowWindows:
    """As N:M, with an N of its own for each row: n_O of every m consecutive inputs stay, from none to all."""

    n_O: tuple[int, ...]
    m: int

    def __post_init__(self) -> None:
        if not 2 <= self.m <= MAX_WINDOW or not all(0 <= n <= self.m for n in self.n_O):
            raise RecipeError(
                f"pattern {str(self)[:40]}: every N from 0 to M <= {MAX_WINDOW} was expected, as in 2:4."
            )

    @property
    def sparsity(self) -> float:
        """The share of zeros that the pattern implies, but for a last partial window."""
        return 1 - sum(self.n_O) / (self.m * len(self.n_O))

    def keep_largest(self, score_OI: Tensor, sparsity: float, within_OI: Tensor | None = None) -> Tensor:
        """Return mask_OI; the sparsity is what the pattern implies."""
        n_O = torch.tensor(self.n_O, device=score_OI.device)
        if len(n_O) != len(score_OI):
            raise RecipeError(
                f"pattern {str(self)[:40]}: {len(n_O)} rows, but the layer has {len(score_OI)}."
            )
        mask_OI = score_OI.new_zeros(score_OI.shape, dtype=torch.bool)
        for n in n_O.unique().tolist():
            row_R = (n_O == n).nonzero()[:, 0]
            within_RI = None if within_OI is None else within_OI[row_R]
            mask_OI[row_R] = _keep_windows(score_OI[row_R], n, self.m, within_RI)
        return mask_OI

    def __str__(self) -> str:
        return f"rows {','.join(map(str, self.n_O))}:{self.m}"


@dataclass(frozen=True, slots=True)
class Block:
    """Cells of rows x cols weights stay or go as one; cells at the right and lower edge may be smaller."""

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if not (1 <= self.rows <= MAX_BLOCK and 1 <= self.cols <= MAX_BLOCK):
            raise RecipeError(
                f"pattern block {self.rows}x{self.cols}: rows and columns from 1 to {MAX_BLOCK} were"
                " expected. Use for example 'block 4x16' or 'block 16x16'."
            )

    def num_kept(self, num_rows: int, num_inputs: int, sparsity: float) -> int:
        """Return how many cells stay."""
        return round((1 - sparsity) * -(-num_rows // self.rows) * -(-num_inputs // self.cols))

    def keep(self, score_OI: Tensor, count: int, within_OI: Tensor | None = None) -> Tensor:
        """Return mask_OI that keeps the `count` cells of largest mean score, only within `within_OI`."""
        num_rows, num_inputs = score_OI.shape
        if within_OI is not None:
            score_OI = score_OI * within_OI
        cell = (self.rows, self.cols)
        score_YX = torch.nn.functional.avg_pool2d(score_OI[None], cell, ceil_mode=True)[0]
        keep_YX = _largest(score_YX.reshape(1, -1), count).view(score_YX.shape)
        mask_OI = keep_YX.repeat_interleave(self.rows, 0).repeat_interleave(self.cols, 1)
        return _only(mask_OI[:num_rows, :num_inputs], within_OI)

    def keep_largest(self, score_OI: Tensor, sparsity: float, within_OI: Tensor | None = None) -> Tensor:
        """Return mask_OI with a share of `sparsity` of the cells zero, only where `within_OI` is True."""
        return self.keep(score_OI, self.num_kept(score_OI.shape[0], score_OI.shape[1], sparsity), within_OI)

    def __str__(self) -> str:
        return f"block {self.rows}x{self.cols}"


Pattern = Unstructured | RowBalanced | NM | RowWindows | Block


def parse_pattern(text: str) -> Pattern:
    """Return the pattern that `text` names, the inverse of `str`; RecipeError with examples if none.

    Rows with an N each are for runs that go on, not for people to write.
    """
    words = text.strip().lower()
    if words == "unstructured":
        return Unstructured()
    if words == "row":
        return RowBalanced()
    if found := re.fullmatch(r"([0-9]{1,9})\s*:\s*([0-9]{1,9})", words):
        return NM(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"rows ([0-9]{1,2}(?:,[0-9]{1,2})*):([0-9]{1,2})", words):
        return RowWindows(tuple(map(int, found[1].split(","))), int(found[2]))
    if found := re.fullmatch(r"block\s+([0-9]{1,9})\s*x\s*([0-9]{1,9})", words):
        return Block(int(found[1]), int(found[2]))
    raise RecipeError(
        f"pattern {text!r} is not known. Expected 'unstructured', 'row' (the same number kept in each row),"
        " N:M such as '2:4' or '8:16' (8 of every 16 inputs kept), or 'block 4x16' (rows x columns)."
        " In YAML put quotes around N:M."
    )


def _validate(value: object) -> Pattern:
    if isinstance(value, Pattern):
        return value
    try:
        return parse_pattern(str(value))
    except RecipeError as error:
        raise ValueError(str(error)) from error  # pydantic adds the place in the recipe


PatternField = Annotated[
    Pattern,
    PlainValidator(_validate),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["unstructured", "row", "2:4", "8:16", "block 4x16"]}),
]
"""A pattern as a field of settings: text in the recipe, an object in the program."""


def _keep_windows(score_OI: Tensor, n: int, m: int, within_OI: Tensor | None) -> Tensor:
    """Return the mask of the n largest scores of every m consecutive ones of a row."""
    num_rows, num_inputs = score_OI.shape
    score_OI = _scores_within(score_OI, within_OI)
    whole = num_inputs // m * m
    parts = [_largest(score_OI[:, :whole].reshape(-1, m), n).view(num_rows, whole)]
    if rest := num_inputs - whole:
        parts.append(_largest(score_OI[:, whole:], -(-n * rest // m)))
    return _only(torch.cat(parts, dim=1), within_OI)


def _scores_within(score_OI: Tensor, within_OI: Tensor | None) -> Tensor:
    """Return the scores with -1, less than any score, where a weight is pruned already."""
    return score_OI if within_OI is None else score_OI.masked_fill(~within_OI, -1.0)


def _only(mask_OI: Tensor, within_OI: Tensor | None) -> Tensor:
    """Return the mask, contiguous, without what is pruned already."""
    return mask_OI.contiguous() if within_OI is None else mask_OI & within_OI


def _largest(score_RN: Tensor, count: int) -> Tensor:
    """Return mask_RN that keeps the `count` largest scores of each row; of equals, the first ones."""
    width = score_RN.shape[1]
    if count <= 0 or width == 0:
        return score_RN.new_zeros(score_RN.shape, dtype=torch.bool)
    if count >= width:
        return score_RN.new_ones(score_RN.shape, dtype=torch.bool)
    ordered_RN = np.partition(score_RN.float().cpu().numpy(), width - count, axis=1)
    smallest_R1 = torch.from_numpy(ordered_RN[:, width - count, None].copy())  # the smallest score that stays
    smallest_R1 = smallest_R1.to(score_RN.device)
    above_RN = score_RN > smallest_R1
    missing_R1 = count - above_RN.sum(dim=1, keepdim=True)
    equal_RN = score_RN == smallest_R1
    if bool((equal_RN.sum(dim=1, keepdim=True) > missing_R1).any()):
        equal_RN &= equal_RN.cumsum(dim=1, dtype=torch.int32) <= missing_R1
    return above_RN | equal_RN
