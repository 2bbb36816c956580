"""Error feedback: fix the weights of one input after the other, and let the later ones make up for the error.

The loop that SparseGPT (arXiv 2301.00774, algorithm 1) and GPTQ (arXiv 2210.17323, algorithm 1) share.
When the weights w of input j are fixed to q, the best update of the inputs k > j is w_k -= (w - q) / U_jj
* U_jk, where U is the upper Cholesky factor of the inverse Gram matrix. Updates are lazy at two levels,
which changes nothing but the speed: within a chunk column by column, beyond it by one matrix product for
the chunk, then one for the block.

The weight is held transposed, so that the O weights of one input are contiguous.
O output features, I input features.
Cost: O * I^2 multiply-adds, nearly all of them in matrix products.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.kernels.dispatch import native_module
from gossamer.methods.solve.grid import nonzero

CHUNK_SIZE = 32


@dataclass(frozen=True, slots=True)
class Grids:
    """What the weight of each input and output may become: scale * code + minimum, lowest <= code <= highest."""

    group_I: Tensor
    """int64, the group of each input."""
    scale_GO: Tensor
    minimum_GO: Tensor
    """Zeros when symmetric."""
    range: tuple[float, float]
    """The lowest and the highest code."""
    code_IO: Tensor
    """float32, written as the inputs are fixed."""


@dataclass(frozen=True, slots=True)
class Fixing:
    """The weights, and how they are fixed. All in float32."""

    weight_IO: Tensor
    """Overwritten, input by input."""
    upper_II: Tensor
    kept_IO: Tensor | None
    """1 and 0; None when all weights are kept. Read when the window of the input has begun."""
    grids: Grids | None
    """None: kept weights stay as they are."""


def fix_inputs(
    fixing: Fixing, window_size: int, begin_window: Callable[[int, int], None], block_size: int = 128
) -> None:
    """Overwrite the weights, input by input, with the nearest value that they may have, 0 where they are not kept.

    `begin_window(start, stop)` is called before the inputs of each window of `window_size` are fixed, when
    weight_IO[start:stop] is up to date with every error before `start`; it may write scales and what is kept.
    """
    weight_IO, upper_II = fixing.weight_IO, fixing.upper_II
    num_inputs, num_rows = weight_IO.shape
    for start, stop in _blocks(num_inputs, window_size, block_size):
        error_BO = weight_IO.new_empty(stop - start, num_rows)
        for first, last in _chunks(start, stop, window_size):
            if first % window_size == 0:
                begin_window(first, min(first + window_size, num_inputs))
            done = slice(first - start, last - start)
            _fix_chunk(fixing, first, error_BO[done])
            if last < stop:
                weight_IO[last:stop].addmm_(upper_II[first:last, last:stop].T, error_BO[done], alpha=-1)
        if stop < num_inputs:
            weight_IO[stop:].addmm_(upper_II[start:stop, stop:].T, error_BO, alpha=-1)


def _fix_chunk(fixing: Fixing, first: int, error_CO: Tensor) -> None:
    """Fix the inputs of a chunk, one after the other; error_CO becomes (w - q) / U_jj. Native code on the CPU."""
    native, grids = native_module(), fixing.grids
    if native is None or not fixing.weight_IO.is_cpu:
        fix_chunk_plainly(fixing, first, error_CO)
        return
    rounding: tuple[Tensor | None, ...] = (None, None, None, None)
    if grids is not None:
        rounding = (grids.scale_GO, grids.minimum_GO, grids.group_I, grids.code_IO)
    bounds = (0.0, 0.0) if grids is None else grids.range
    native.fix_chunk(
        fixing.weight_IO, fixing.upper_II, fixing.kept_IO, *rounding, error_CO, first, len(error_CO), bounds
    )


def fix_chunk_plainly(fixing: Fixing, first: int, error_CO: Tensor) -> None:
    """The reference of the native code, and what serves other devices."""
    size, grids = len(error_CO), fixing.grids
    upper_CC = fixing.upper_II[first : first + size, first : first + size]
    inverse_C = (1 / upper_CC.diagonal()).tolist()
    weight_CO = fixing.weight_IO[first : first + size]
    groups = [] if grids is None else grids.group_I[first : first + size].tolist()
    for index, weight_O in enumerate(weight_CO):
        value_O = weight_O.clone()
        if grids is not None:
            scale_O, minimum_O = grids.scale_GO[groups[index]], grids.minimum_GO[groups[index]]
            code_O = torch.sub(weight_O, minimum_O, out=grids.code_IO[first + index])
            code_O.div_(nonzero(scale_O)).round_().clamp_(*grids.range)
            value_O = torch.addcmul(minimum_O, code_O, scale_O)
        if fixing.kept_IO is not None:
            value_O *= fixing.kept_IO[first + index]
        torch.sub(weight_O, value_O, out=error_CO[index]).mul_(inverse_C[index])
        weight_O.copy_(value_O)
        if index + 1 < size:
            weight_CO[index + 1 :].addmm_(upper_CC[index, index + 1 :, None], error_CO[index, None], alpha=-1)


def _blocks(num_inputs: int, window_size: int, block_size: int) -> Iterator[tuple[int, int]]:
    """Yield the blocks: as many whole windows as fit in `block_size`, or a window cut to that size."""
    if window_size <= block_size:
        step = block_size // window_size * window_size
        yield from ((start, min(start + step, num_inputs)) for start in range(0, num_inputs, step))
        return
    for window in range(0, num_inputs, window_size):
        end = min(window + window_size, num_inputs)
        yield from ((start, min(start + block_size, end)) for start in range(window, end, block_size))


def _chunks(start: int, stop: int, window_size: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks of a block; none reaches over the end of a window."""
    for window in range(start, stop, window_size):
        end = min(window + window_size, stop)
        yield from ((first, min(first + CHUNK_SIZE, end)) for first in range(window, end, CHUNK_SIZE))
