"""A second, independent packer: slow numpy that follows the byte layouts word by word, to check kernels against.

It shares no code with gossamer.formats. O rows, I columns, S strips of 16 rows, Q quads of 4 columns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

PLANES = {2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1], 8: [8]}
FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass
class Packed:
    meta: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    weight_OI: np.ndarray  # float64, what the bytes mean


def tiles(matrix_OI: np.ndarray) -> np.ndarray:
    """[O, I] -> [S, Q, 64], lane 4r+j = row 16s+r, column 4q+j; zeros outside."""
    rows, columns = matrix_OI.shape
    strips, width = -(-rows // 16), -(-columns // 64) * 64
    out = np.zeros((strips, width // 4, 64), dtype=matrix_OI.dtype)
    for row in range(rows):
        for column in range(columns):
            out[row // 16, column // 4, 4 * (row % 16) + column % 4] = matrix_OI[row, column]
    return out


def pack_scales(scale_OG: np.ndarray) -> torch.Tensor:
    rows, groups = scale_OG.shape
    out = np.zeros((-(-rows // 16), groups, 16), dtype=np.float16)
    for row in range(rows):
        out[row // 16, :, row % 16] = scale_OG[row]
    return torch.from_numpy(out)


def random_scales(rng: np.random.Generator, rows: int, groups: int) -> np.ndarray:
    return rng.uniform(0.01, 0.1, (rows, groups)).astype(np.float16)


def spread(values_OG: np.ndarray, columns: int) -> np.ndarray:
    return np.repeat(values_OG.astype(np.float64), columns // values_OG.shape[1], axis=1)


def pack_integer(
    rng: np.random.Generator, rows: int, columns: int, *, bits: int, group_size: int, symmetric: bool = True
) -> Packed:
    codes_OI = rng.integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    scale_OG = random_scales(rng, rows, columns // group_size)
    tensors = {"scale": pack_scales(scale_OG)}
    weight_OI = spread(scale_OG, columns) * (codes_OI.astype(np.float64) - 2 ** (bits - 1))
    if not symmetric:
        minimum_OG = rng.uniform(-0.5, 0.1, scale_OG.shape).astype(np.float16)
        tensors["minimum"] = pack_scales(minimum_OG)
        weight_OI = spread(scale_OG, columns) * codes_OI + spread(minimum_OG, columns)
    tiles_SQL, low = tiles(codes_OI), 0
    for width in PLANES[bits]:
        per_byte = 8 // width
        plane = np.zeros((tiles_SQL.shape[0], tiles_SQL.shape[1] // per_byte, 64), dtype=np.uint8)
        for quad in range(tiles_SQL.shape[1]):
            part = (tiles_SQL[:, quad] >> low) & (2**width - 1)
            plane[:, quad // per_byte] |= (part << (width * (quad % per_byte))).astype(np.uint8)
        tensors[f"codes{width}"] = torch.from_numpy(plane)
        low += width
    meta = {"format": "integer", "shape": [rows, columns], "bits": bits, "group_size": group_size}
    return Packed(meta | {"symmetric": symmetric, "masked": False}, tensors, weight_OI)


def random_values(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    if kind == "int4":
        return rng.integers(-8, 8, shape).astype(np.int8)
    if kind == "int8":
        return rng.integers(-128, 128, shape).astype(np.int8)
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32)).to(FLOATS[kind]).float().numpy()


def to_tensor(values: np.ndarray, kind: str) -> torch.Tensor:
    return torch.from_numpy(values).to(FLOATS[kind]) if kind in FLOATS else torch.from_numpy(values)


def scaled(rng: np.random.Generator, packed: Packed, kind: str, group_size: int) -> Packed:
    """Give integer values a scale for each group."""
    if kind in FLOATS:
        return packed
    rows, columns = packed.meta["shape"]
    scale_OG = random_scales(rng, rows, columns // group_size)
    packed.tensors["scale"] = pack_scales(scale_OG)
    packed.weight_OI = packed.weight_OI * spread(scale_OG, columns)
    packed.meta |= {"bits": 4 if kind == "int4" else 8, "group_size": group_size, "symmetric": True}
    return packed


def pack_bitmask(
    rng: np.random.Generator, rows: int, columns: int, *, kind: str, group_size: int, density: float = 0.5
) -> Packed:
    keep_OI = rng.random((rows, columns)) < density
    values_OI = random_values(rng, kind, (rows, columns))
    keep_SQL, values_SQL = tiles(keep_OI), tiles(values_OI)
    mask = np.zeros(keep_SQL.shape[:2], dtype=np.uint64)
    offsets, stream = [0], []
    for strip in range(keep_SQL.shape[0]):
        halves: tuple[list[Any], list[Any]] = ([], [])
        for quad in range(keep_SQL.shape[1]):
            for lane in np.flatnonzero(keep_SQL[strip, quad]):
                mask[strip, quad] |= np.uint64(1) << np.uint64(lane)
                halves[quad % 2 if kind == "int4" else 0].append(values_SQL[strip, quad, lane])
        if kind == "int4":
            length = max(len(halves[0]), len(halves[1]))
            low, high = (half + [0] * (length - len(half)) for half in halves)
            stream += [(int(a) & 15) | (int(b) & 15) << 4 for a, b in zip(low, high, strict=True)]
        else:
            stream += halves[0]
        offsets.append(len(stream))
    dtype = np.uint8 if kind == "int4" else values_OI.dtype
    item = {"int4": 1, "int8": 1, "float32": 4}.get(kind, 2)
    tensors = {
        "mask": torch.from_numpy(mask.view(np.int64)),
        "offsets": torch.tensor(offsets, dtype=torch.int64),
        "values": to_tensor(np.array([*stream, *[0] * (64 // item)], dtype=dtype), kind),
    }
    meta = {"format": "bitmask", "shape": [rows, columns], "values": kind, "num_values": len(stream)}
    weight_OI = np.where(keep_OI, values_OI, 0).astype(np.float64)
    return scaled(rng, Packed(meta, tensors, weight_OI), kind, group_size)


def pack_dense(rng: np.random.Generator, rows: int, columns: int, *, kind: str, group_size: int) -> Packed:
    values_OI = random_values(rng, kind, (rows, columns))
    meta = {"format": "dense", "shape": [rows, columns], "values": kind}
    return Packed(
        meta, {"weight": torch.from_numpy(values_OI).to(FLOATS[kind])}, values_OI.astype(np.float64)
    )


def pack_nm(
    rng: np.random.Generator, rows: int, columns: int, *, keep: int, kind: str, group_size: int
) -> Packed:
    values_OI = random_values(rng, kind, (rows, columns))
    strips, windows = -(-rows // 16), -(-columns // 64) * 4
    index = np.zeros((strips, windows, keep // 4, 64), dtype=np.uint8)
    value = np.zeros(index.shape, dtype=values_OI.dtype)
    weight_OI = np.zeros((rows, columns))
    for row in range(rows):
        for window in range(-(-columns // 16)):
            width = min(16, columns - 16 * window)
            count = min(width, int(rng.integers(1, keep + 1)))
            for slot, column in enumerate(sorted(rng.choice(width, count, replace=False))):
                at = (row // 16, window, slot // 4, 4 * (row % 16) + slot % 4)
                index[at], value[at] = column, values_OI[row, 16 * window + column]
                weight_OI[row, 16 * window + column] = value[at]
    if kind == "int4":
        tensors = {"codes": torch.from_numpy(((value.astype(np.uint8) & 15) << 4) | index)}
    else:
        packed_index = index[..., 0::2] | (index[..., 1::2] << 4)
        tensors = {"index": torch.from_numpy(packed_index), "values": to_tensor(value, kind)}
    meta = {"format": "nm", "shape": [rows, columns], "keep": keep, "values": kind}
    return scaled(rng, Packed(meta, tensors, weight_OI), kind, group_size)


def pack_narrow(
    rng: np.random.Generator, rows: int, columns: int, *, window: int, kind: str, group_size: int
) -> Packed:
    """Half of every 4 or 8 columns: eight slots for 16 columns, slot by slot."""
    values_OI = random_values(rng, kind, (rows, columns))
    strips, runs, keep = -(-rows // 16), -(-columns // 64) * 4, window // 2
    column = np.zeros((strips, runs // 2, 64), dtype=np.uint8)
    mask = np.zeros((strips, runs, 2, 16), dtype=np.uint8)
    value = np.zeros((strips, runs, 2, 64), dtype=values_OI.dtype)
    weight_OI = np.zeros((rows, columns))
    for row in range(rows):
        for start in range(0, columns, window):
            width = min(window, columns - start)
            count = min(width, int(rng.integers(1 if window == 4 else 0, keep + 1)))
            run, first = start // 16, start % 16 // window * keep
            for slot, inside in enumerate(sorted(rng.choice(width, count, replace=False)), start=first):
                plane, lane = slot // 4, 4 * (row % 16) + slot % 4
                value[row // 16, run, plane, lane] = weight_OI[row, start + inside] = values_OI[
                    row, start + inside
                ]
                column[row // 16, run // 2, lane] |= inside << (4 * (run % 2) + 2 * plane)
                mask[row // 16, run, plane, row % 16] |= 1 << inside
    tensors = {"index": torch.from_numpy(column)} if window == 4 else {"mask": torch.from_numpy(mask)}
    if kind == "int4":
        nibbles = value.astype(np.uint8) & 15
        tensors["codes"] = torch.from_numpy(nibbles[:, :, 0] | nibbles[:, :, 1] << 4)
    else:
        tensors["values"] = to_tensor(value, kind)
    meta = {"format": "nm", "shape": [rows, columns], "keep": keep, "window": window, "values": kind}
    return scaled(rng, Packed(meta, tensors, weight_OI), kind, group_size)
