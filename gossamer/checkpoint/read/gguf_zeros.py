"""How many weights of a GGUF tensor are exactly zero, without unpacking what cannot be.

    Q8_0        d * q               zero where q is, or d
    Q4_1, Q5_1  d * q + m           zero only in blocks where -m / d is a whole number that q can be
Other types are unpacked. d and m are the float16 numbers of a block of 32, q its codes; gguf/quants.py has the layouts.
"""

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from gossamer.checkpoint.read.gguf_header import GGUFFile

_LARGEST_CODE = {"Q4_1": 15, "Q5_1": 31}
_SLICE_BLOCKS = 1 << 15


def count_zeros(file: GGUFFile, stored: str) -> int:
    """Return how many elements of the tensor `stored` are zero when it is dequantized to float32."""
    kind = GGMLQuantizationType[file.tensors[stored].type_name]
    _, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = file.raw(stored).reshape(-1, block_bytes)
    with np.errstate(all="ignore"):  # scales of corrupted data may be NaN or infinite
        return sum(
            _count(blocks[begin : begin + _SLICE_BLOCKS], kind)
            for begin in range(0, len(blocks), _SLICE_BLOCKS)
        )


def _count(blocks: np.ndarray, kind: GGMLQuantizationType) -> int:
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32) if blocks.shape[1] >= 4 else None
    if kind.name == "Q8_0" and scale is not None:
        zeros = np.count_nonzero(blocks[:, 2:] == 0, axis=1)
        zeros[scale[:, 0] == 0] = blocks.shape[1] - 2
        return int(zeros[np.isfinite(scale[:, 0])].sum())
    if kind.name in _LARGEST_CODE and scale is not None:
        minimum = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
        code = np.clip(np.rint(-minimum / scale), 0, _LARGEST_CODE[kind.name])
        possible = np.where(scale == 0, minimum == 0, scale * code + minimum == 0)[:, 0]
        blocks = blocks[possible]
    return int(np.count_nonzero(dequantize(blocks.reshape(1, -1), kind) == 0)) if len(blocks) else 0
