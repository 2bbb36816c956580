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

from torch import Tensor

CHUNK_SIZE = 32

Decide = Callable[[int, Tensor, Tensor], None]
"""decide(j, w_O, error_O): overwrite error_O with (w - q) / U_jj and w_O with q."""


def fix_inputs(
    weight_IO: Tensor,
    upper_II: Tensor,
    window_size: int,
    begin_window: Callable[[int, int], Decide],
    block_size: int = 128,
) -> None:
    """Overwrite the weights, input by input, with what `decide` makes of them.

    `begin_window(start, stop)` is called before the inputs of each window of `window_size` are fixed, when
    weight_IO[start:stop] is up to date with every error before `start`; it returns the `decide` of the
    window.
    """
    num_inputs, num_rows = weight_IO.shape
    decide: Decide | None = None
    for start, stop in _blocks(num_inputs, window_size, block_size):
        error_BO = weight_IO.new_empty(stop - start, num_rows)
        for first, last in _chunks(start, stop, window_size):
            if first % window_size == 0:
                decide = begin_window(first, min(first + window_size, num_inputs))
            assert decide is not None
            _fix_chunk(
                weight_IO[first:last],
                upper_II[first:last, first:last],
                error_BO[first - start :],
                first,
                decide,
            )
            done = slice(first - start, last - start)
            if last < stop:
                weight_IO[last:stop].addmm_(upper_II[first:last, last:stop].T, error_BO[done], alpha=-1)
        if stop < num_inputs:
            weight_IO[stop:].addmm_(upper_II[start:stop, stop:].T, error_BO, alpha=-1)


def _fix_chunk(weight_CO: Tensor, upper_CC: Tensor, error_CO: Tensor, first: int, decide: Decide) -> None:
    size = weight_CO.shape[0]
    rows = weight_CO.unbind(0)
    errors = error_CO[:size].split(1)
    for index in range(size):
        decide(first + index, rows[index], errors[index][0])
        if index + 1 < size:
            weight_CO[index + 1 :].addmm_(upper_CC[index, index + 1 :, None], errors[index], alpha=-1)


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
