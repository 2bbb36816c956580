"""Every packed operation in plain torch: what the bytes mean, and what a fast kernel has to reproduce.

Each function takes a declaration (`meta`, the JSON-able dict of a format) and the packed tensors, and runs on the
device that these are on. Nothing here is checked (formats/ does that) and nothing is fast: a product first unpacks
the whole matrix. table.py says which function serves which format.

O output features, I input features, T tokens, G groups of inputs that share a scale, S strips of 16 rows,
Q quads of 4 columns; of an N:M matrix: N slots in each of W windows of M columns, C runs of 16 columns,
P planes; K stored blocks. Tile order: the 64 values of (strip s, quad q) lie together; lane 4r+j is row 16s+r, column
4q+j.
"""

import torch
from torch import Tensor
from torch.nn import functional

from gossamer.kernels.declaration import Meta, Tensors

PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
"""Code width -> widths of the bit planes it is split into, low bits first."""

PIECE = 2**19
"""Weights that are widened to float32 at a time: 2 MiB, which a second-level cache holds."""


# ---- products ----------------------------------------------------------------------------------------------


def integer_matmul(meta: Meta, tensors: Tensors, x_TI: Tensor, activations: str = "float") -> Tensor:
    """Return y_TO = x W^T for the `integer` format."""
    return _matmul(meta, integer_unpack(meta, tensors), x_TI, activations)


def bitmask_matmul(meta: Meta, tensors: Tensors, x_TI: Tensor, activations: str = "float") -> Tensor:
    """Return y_TO = x W^T for the `bitmask` format."""
    return _matmul(meta, bitmask_unpack(meta, tensors), x_TI, activations)


def nm_matmul(meta: Meta, tensors: Tensors, x_TI: Tensor, activations: str = "float") -> Tensor:
    """Return y_TO = x W^T for the `nm` format."""
    return _matmul(meta, nm_unpack(meta, tensors), x_TI, activations)


def dense_matmul(meta: Meta, tensors: Tensors, x_TI: Tensor, activations: str = "float") -> Tensor:
    """Return y_TO = x W^T for the `dense` format, in float32; 16-bit weights are widened piece by piece."""
    weight_OI = tensors["weight"]
    if weight_OI.dtype == torch.float32:
        return functional.linear(x_TI, weight_OI)
    pieces = weight_OI.split(max(1, PIECE // weight_OI.shape[1]))
    return torch.cat([functional.linear(x_TI, piece.to(torch.float32)) for piece in pieces], dim=1)


def block_matmul(meta: Meta, tensors: Tensors, x_TI: Tensor, activations: str = "float") -> Tensor:
    """Return y_TO = x W^T for the `block` format; the work is proportional to the blocks that are stored."""
    num_outputs, num_inputs = meta["shape"]
    height, width = meta["block"]
    x_TCc = functional.pad(x_TI, (0, -num_inputs % width)).unflatten(1, (-1, width))
    x_KcT = x_TCc[:, tensors["col_indices"].long()].permute(1, 2, 0)
    products_KrT = tensors["values"].to(torch.float32) @ x_KcT
    num_strips = tensors["crow_indices"].numel() - 1
    y_RrT = x_TI.new_zeros(num_strips, height, x_TI.shape[0])
    y_RrT.index_add_(0, expand_pointers(tensors["crow_indices"]), products_KrT)
    return y_RrT.flatten(0, 1)[:num_outputs].T.contiguous()


def sparse_matmul(meta: Meta, tensors: Tensors, x_TI: Tensor, activations: str = "float") -> Tensor:
    """Return y_TO = x W^T for `coo`, `csr` and `csc`."""
    rows, columns = sparse_coordinates(meta, tensors)
    values = tensors["values"].to(torch.float32)
    indices, shape = torch.stack([rows, columns]), tuple(meta["shape"])
    weight = torch.sparse_coo_tensor(indices, values, shape, device=values.device, check_invariants=False)
    return torch.sparse.mm(weight, x_TI.T.contiguous()).T.contiguous()


def _matmul(meta: Meta, weight_OI: Tensor, x_TI: Tensor, activations: str) -> Tensor:
    if activations == "int8" and "bits" in meta:
        x_TI = round_activations(x_TI, activation_block(meta))
    return functional.linear(x_TI, weight_OI)


def activation_block(meta: Meta) -> int:
    """Return how many columns of an activation share a scale."""
    return 32 if meta["group_size"] == 32 else 64


def round_activations(x_TI: Tensor, block: int) -> Tensor:
    """Return x as int8 activations represent it.

    Per token and run of `block` columns: scale = absmax / 127 in float32; q = x / scale rounded half to even
    and clamped to +-127; a run of zeros has scale 0. The result is q * scale. Float-valued formats never
    round.
    """
    num_inputs = x_TI.shape[1]
    x_TBb = functional.pad(x_TI, (0, -num_inputs % block)).unflatten(1, (-1, block))
    scale_TB1 = x_TBb.abs().amax(dim=2, keepdim=True) / 127
    codes_TBb = torch.where(scale_TB1 == 0, 0.0, x_TBb / scale_TB1).round().clamp(-127, 127)
    return (codes_TBb * scale_TB1).flatten(1)[:, :num_inputs]


# ---- what the bytes mean -----------------------------------------------------------------------------------


def from_tiles(tiles_SQL: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return the matrix [num_rows, num_columns] whose padded tiles are given."""
    num_strips, num_quads, _ = tiles_SQL.shape
    padded = (
        tiles_SQL.view(num_strips, num_quads, 16, 4).transpose(1, 2).reshape(num_strips * 16, num_quads * 4)
    )
    return padded[:num_rows, :num_columns]


def join_planes(tensors: Tensors, bits: int) -> Tensor:
    """Return codes [S, Q, lanes] (uint8) from their bit planes; works on any number of lanes."""
    codes = None
    shift = 0
    for width in PLANES[bits]:
        plane = tensors[f"codes{width}"]
        low_bits = (1 << width) - 1
        parts = [(plane >> (width * j)) & low_bits for j in range(8 // width)]
        part = torch.stack(parts, dim=2).flatten(1, 2) << shift
        codes = part if codes is None else codes | part
        shift += width
    assert codes is not None
    return codes


def integer_codes(meta: Meta, tensors: Tensors) -> Tensor:
    """Return codes_OI (uint8) of an `integer` matrix."""
    return from_tiles(join_planes(tensors, meta["bits"]), *meta["shape"])


def integer_unpack(meta: Meta, tensors: Tensors) -> Tensor:
    """Return weight_OI (float32) of an `integer` matrix."""
    codes_OI = integer_codes(meta, tensors)
    scale_OG, minimum_OG = unpack_scales(meta, tensors)
    return _scale_codes(codes_OI, scale_OG, minimum_OG, meta["bits"])


def dense_rows(meta: Meta, tensors: Tensors, rows: Tensor) -> Tensor:
    """Return the chosen rows [*rows.shape, I] (float32) of a `dense` matrix. `rows` is any integer tensor."""
    return tensors["weight"][rows].to(torch.float32)


def integer_rows(meta: Meta, tensors: Tensors, rows: Tensor) -> Tensor:
    """Return the chosen rows [*rows.shape, I] (float32) of an `integer` matrix, and unpack no others.

    `rows` is any integer tensor with 0 <= row < O.
    """
    strips, lanes = rows.flatten() // 16, rows.flatten() % 16
    planes = {
        name: plane.unflatten(2, (16, 4))[strips, :, lanes]
        for name, plane in tensors.items()
        if name.startswith("codes")
    }
    codes_RI = join_planes(planes, meta["bits"]).flatten(1)[:, : meta["shape"][1]]
    scale_RG = tensors["scale"][strips, :, lanes].to(torch.float32)
    minimum_RG = None if meta["symmetric"] else tensors["minimum"][strips, :, lanes].to(torch.float32)
    return _scale_codes(codes_RI, scale_RG, minimum_RG, meta["bits"]).view(*rows.shape, meta["shape"][1])


def unpack_scales(meta: Meta, tensors: Tensors) -> tuple[Tensor, Tensor | None]:
    """Return scale_OG and minimum_OG (or None) in float32."""
    num_outputs = meta["shape"][0]
    scale_OG = tensors["scale"].transpose(1, 2).flatten(0, 1)[:num_outputs].to(torch.float32)
    if meta["symmetric"]:
        return scale_OG, None
    return scale_OG, tensors["minimum"].transpose(1, 2).flatten(0, 1)[:num_outputs].to(torch.float32)


def _scale_codes(codes_OI: Tensor, scale_OG: Tensor, minimum_OG: Tensor | None, bits: int) -> Tensor:
    """Return scale * (code - 2**(bits-1)), or scale * code + minimum."""
    values_OGg = codes_OI.to(torch.float32).unflatten(1, (scale_OG.shape[1], -1))
    if minimum_OG is None:
        values_OGg = values_OGg.sub_(2 ** (bits - 1)).mul_(scale_OG[:, :, None])
    else:
        values_OGg = values_OGg.mul_(scale_OG[:, :, None]).add_(minimum_OG[:, :, None])
    return values_OGg.flatten(1)


def bitmask_kept(tensors: Tensors) -> Tensor:
    """Return kept [S, Q, 64] (bool): bit 4r+j of each mask word is lane 4r+j."""
    mask_SQ = tensors["mask"]
    bytes_SQ81 = mask_SQ.contiguous().view(torch.uint8).view(*mask_SQ.shape, 8, 1)
    shifts = torch.arange(8, dtype=torch.uint8, device=mask_SQ.device)
    return ((bytes_SQ81 >> shifts) & 1).flatten(2).bool()


def nibble_positions(kept_SqL: Tensor, starts_S: Tensor) -> Tensor:
    """Return the byte that each kept lane of one int4 stream (even or odd quads) lies in, in stream order."""
    return runs(starts_S, kept_SqL.flatten(1).sum(dim=1))


def runs(starts_S: Tensor, lengths_S: Tensor) -> Tensor:
    """Return the numbers start, start + 1, ... of every run, one run after the other."""
    before_S = lengths_S.cumsum(0) - lengths_S
    position = torch.arange(int(lengths_S.sum()), device=lengths_S.device)
    return position.add_((starts_S - before_S).repeat_interleave(lengths_S))


def bitmask_values(meta: Meta, tensors: Tensors, kept_SQL: Tensor) -> Tensor:
    """Return the stored values in tile order [S, Q, 64], zero where nothing is kept: int8 or the float
    type.
    """
    values, starts_S = tensors["values"], tensors["offsets"][:-1]
    if meta["values"] != "int4":
        tiles = torch.zeros(kept_SQL.shape, dtype=values.dtype, device=values.device)
        return tiles.masked_scatter_(kept_SQL, values)
    tiles = torch.zeros(kept_SQL.shape, dtype=torch.int8, device=values.device)
    for parity, shift in ((0, 0), (1, 4)):
        kept_SqL = kept_SQL[:, parity::2]
        nibbles = (values[nibble_positions(kept_SqL, starts_S)] >> shift) & 15
        half = torch.zeros(kept_SqL.shape, dtype=torch.int8, device=values.device)
        tiles[:, parity::2] = half.masked_scatter_(kept_SqL, sign_extend(nibbles))
    return tiles


def sign_extend(nibbles: Tensor) -> Tensor:
    """Return two's-complement nibbles (uint8, 0..15) as int8, -8..7."""
    return (nibbles.to(torch.int8) ^ 8) - 8


def bitmask_unpack(meta: Meta, tensors: Tensors) -> Tensor:
    """Return weight_OI (float32) of a `bitmask` matrix."""
    kept_SQL = bitmask_kept(tensors)
    values_OI = from_tiles(bitmask_values(meta, tensors, kept_SQL), *meta["shape"])
    if "bits" not in meta:
        return values_OI.to(torch.float32)
    return _scale_kept(meta, tensors, values_OI, from_tiles(kept_SQL, *meta["shape"]))


def _scale_kept(meta: Meta, tensors: Tensors, values_OI: Tensor, kept_OI: Tensor) -> Tensor:
    """Return scaled signed values c = code - 2**(bits-1), zero where nothing is kept."""
    codes_OI = values_OI.to(torch.int16) + 2 ** (meta["bits"] - 1)
    scale_OG, minimum_OG = unpack_scales(meta, tensors)
    return _scale_codes(codes_OI, scale_OG, minimum_OG, meta["bits"]).masked_fill_(~kept_OI, 0)


def nm_entries(meta: Meta, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """Return (index, value), each [S*16, W, N]: the kept columns of every window in ascending order, and
    their values.

    A slot that holds nothing has index 0 and value 0.
    """
    if "mask" in tensors:
        index_RWN = _first_bits(nm_mask_bits(tensors["mask"]), meta["keep"])
    else:
        index_RWN = _nm_rows(_nm_columns(meta, tensors), meta["keep"])
    return index_RWN, nm_values(meta, tensors)


def _nm_columns(meta: Meta, tensors: Tensors) -> Tensor:
    if nm_window(meta) == 4:  # [S, C/2, 64] -> the two planes of an even and of an odd 16 columns
        fields = torch.stack([tensors["index"] >> shift & 3 for shift in (0, 2, 4, 6)], dim=2)
        return fields.unflatten(2, (2, 2)).flatten(1, 2)
    if meta["values"] == "int4":
        return tensors["codes"] & 15
    packed = tensors["index"]
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)


def nm_values(meta: Meta, tensors: Tensors) -> Tensor:
    """Return the signed values of the slots, [S*16, W, N]; 0 where a slot holds nothing."""
    if meta["values"] != "int4":
        return _nm_rows(tensors["values"], meta["keep"])
    codes = tensors["codes"]
    if nm_window(meta) == 16:
        return _nm_rows(sign_extend(codes >> 4), meta["keep"])
    planes = torch.stack([sign_extend(codes & 15), sign_extend(codes >> 4)], dim=2)
    return _nm_rows(planes, meta["keep"])


def _first_bits(kept_RWw: Tensor, count: int) -> Tensor:
    """Return the numbers of the first `count` bits that are set (uint8), and zeros where there are fewer."""
    first_RWN = (~kept_RWw).to(torch.uint8).argsort(dim=2, stable=True)[:, :, :count]
    filled_RWN = torch.arange(count, device=kept_RWw.device) < kept_RWw.sum(dim=2, keepdim=True)
    return (first_RWN * filled_RWN).to(torch.uint8)


def nm_window(meta: Meta) -> int:
    """Return the columns of a window."""
    return int(meta.get("window", 16))


def _nm_rows(lanes_SCPL: Tensor, keep: int) -> Tensor:
    """[S, C, P, 64] -> [S*16, W, N]: lane 4r+j of plane p is slot 4p+j of row r in 16 columns."""
    rows = lanes_SCPL.unflatten(3, (16, 4)).permute(0, 3, 1, 2, 4)
    return rows.flatten(0, 1).flatten(1).unflatten(1, (-1, keep))


def nm_mask_bits(mask_SC2r: Tensor) -> Tensor:
    """[S, C, 2, 16] bytes, a bit for each of 8 columns of a row -> [S*16, W, 8] (bool)."""
    rows = mask_SC2r.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
    return (rows[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=rows.device) & 1).bool()


def nm_kept(meta: Meta, tensors: Tensors, index_RWN: Tensor) -> Tensor:
    """Return mask_OI (bool). 4:8 has it; else slot 0 of every real window is kept, and a later slot when its index is
    not 0.
    """
    num_outputs, num_inputs = meta["shape"]
    if "mask" in tensors:
        return nm_mask_bits(tensors["mask"]).flatten(1)[:num_outputs, :num_inputs]
    target = torch.where(index_RWN == 0, index_RWN[:, :, :1], index_RWN).long()
    kept = torch.zeros(*index_RWN.shape[:2], nm_window(meta), dtype=torch.bool, device=index_RWN.device)
    return kept.scatter_(2, target, True).flatten(1)[:num_outputs, :num_inputs]


def nm_placed(meta: Meta, index_RWN: Tensor, value_RWN: Tensor) -> Tensor:
    """Return [O, I] with the values of the slots in their columns and zeros elsewhere."""
    num_outputs, num_inputs = meta["shape"]
    shape = (*index_RWN.shape[:2], nm_window(meta))
    windows = torch.zeros(shape, dtype=value_RWN.dtype, device=value_RWN.device)
    windows.scatter_add_(2, index_RWN.long(), value_RWN)
    return windows.flatten(1)[:num_outputs, :num_inputs]


def nm_unpack(meta: Meta, tensors: Tensors) -> Tensor:
    """Return weight_OI (float32) of an `nm` matrix."""
    index_RWN, value_RWN = nm_entries(meta, tensors)
    values_OI = nm_placed(meta, index_RWN, value_RWN)
    if "bits" not in meta:
        return values_OI.to(torch.float32)
    return _scale_kept(meta, tensors, values_OI, nm_kept(meta, tensors, index_RWN))


def dense_unpack(meta: Meta, tensors: Tensors) -> Tensor:
    """Return weight_OI (float32) of a `dense` matrix."""
    return tensors["weight"].to(torch.float32)


def block_unpack(meta: Meta, tensors: Tensors) -> Tensor:
    """Return weight_OI (float32) of a `block` matrix."""
    return place_blocks(meta, tensors, tensors["values"].to(torch.float32))


def place_blocks(meta: Meta, tensors: Tensors, values_Krc: Tensor) -> Tensor:
    """Return [O, I] with the given blocks in their places and zeros elsewhere."""
    num_outputs, num_inputs = meta["shape"]
    height, width = meta["block"]
    num_rows, num_columns = -(-num_outputs // height), -(-num_inputs // width)
    grid = values_Krc.new_zeros(num_rows, num_columns, height, width)
    grid[expand_pointers(tensors["crow_indices"]), tensors["col_indices"].long()] = values_Krc
    return grid.transpose(1, 2).reshape(num_rows * height, num_columns * width)[:num_outputs, :num_inputs]


def sparse_unpack(meta: Meta, tensors: Tensors) -> Tensor:
    """Return weight_OI (float32) of a `coo`, `csr` or `csc` matrix."""
    values = tensors["values"].to(torch.float32)
    weight_OI = values.new_zeros(tuple(meta["shape"]))
    weight_OI[sparse_coordinates(meta, tensors)] = values
    return weight_OI


def sparse_coordinates(meta: Meta, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """Return (row, column) of every stored value, int64."""
    if meta["format"] == "csr":
        return expand_pointers(tensors["crow_indices"]), tensors["col_indices"].long()
    if meta["format"] == "csc":
        return tensors["row_indices"].long(), expand_pointers(tensors["ccol_indices"])
    return tensors["row_indices"].long(), tensors["col_indices"].long()


def expand_pointers(pointers: Tensor) -> Tensor:
    """Return, for each stored item, the row it belongs to: [0, 2, 3] -> [0, 0, 1] (int64)."""
    counts = pointers.diff().long()
    return torch.arange(counts.numel(), device=pointers.device).repeat_interleave(counts)


def low_rank_part(meta: Meta, tensors: Tensors, name: str) -> tuple[Meta, dict[str, Tensor]]:
    """Return declaration and tensors of one part of a `low_rank` matrix: left, right or residual."""
    prefix = f"{name}_"
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return meta[name], own
