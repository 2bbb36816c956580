"""What a level of a matrix costs: bytes by arithmetic, milliseconds by timing its kernel on this machine.

A kernel is timed on one token with int8 activations, going through copies of one matrix that together do not fit in a
cache, as a decode step goes through the layers; a low-rank part adds two products and a sum. What calling it from
Python takes, which the engine does not do, is taken off: the three calls of a low-rank part would take longer than its
products. What a step does besides products is learned from the first model that is verified.

O output features, I input features.
"""

import statistics
import tempfile
import time
from functools import cache
from pathlib import Path

import torch

from gossamer.checkpoint.source import Source
from gossamer.checkpoint.write.side_files import copy_side_files
from gossamer.compression.preview import predicted_bytes, stored_dtypes
from gossamer.compression.selection import head_is_tied
from gossamer.formats.choose import pack
from gossamer.formats.factors import Factors
from gossamer.formats.weight import PackedWeight
from gossamer.frontier.levels import DENSE, OUTSIDE, SPARSE, is_low_rank, level, options_for
from gossamer.frontier.state import State
from gossamer.kernels.expand import as_multiplied
from gossamer.kernels.table import product
from gossamer.methods.rtn import RTN
from gossamer.methods.rtn import apply as rtn
from gossamer.methods.solve.layer_weight import LayerWeight
from gossamer.progress import Progress

COLD_BYTES, MOST_COPIES, PASSES = 96 << 20, 2048, 5
SMALLEST = (16, 64)
"""Shape of a matrix whose product takes next to nothing beside the call."""
LEAST_SHARE = 0.1
"""Of a call, that the product is taken to last at least: what is left of small matrices is noise."""
CONFIG_BYTES_PER_MATRIX = 800
"""What config.json and gossamer.json say about a matrix, about; learned exactly from the first folder written."""
LOW_RANK_CONFIG_BYTES = 620
"""What config.json and the header of the weights say besides where a matrix has factors, about."""


class Costs:
    """The matrices that the search may change, and what each of their levels costs."""

    def __init__(self, source: Source) -> None:
        parts = source.architecture
        skeleton = source.reader.skeleton
        self.embedding = parts.token_embedding
        self.tied = head_is_tied(source)
        self.head = None if self.tied else parts.output_head
        linears = [name for block in parts.blocks for name in parts.linears(block)]
        outside = [name for name in (self.embedding, self.head) if name is not None]
        self.shapes = {name: parts.matrix(name).shape for name in (*linears, *outside)}
        self.linears, self.outside = linears, [name for name in self.shapes if name not in linears]
        dtypes = stored_dtypes(source)
        held = {name: parts.matrix(name).parameter for name in self.shapes}
        self.dtypes = {name: dtypes[parameter] for name, parameter in held.items()}
        changed = set(held.values())
        parameters = skeleton.named_parameters()
        rest = sum(value.numel() * dtypes[name].itemsize for name, value in parameters if name not in changed)
        self.fixed_bytes = rest + _side_bytes(source) + CONFIG_BYTES_PER_MATRIX * len(self.shapes)

    def options(self, name: str, sparse: bool, dense: bool = True) -> list[str]:
        """The levels of one matrix: with or without those that prune, with or without those that do not."""
        if name in self.outside:
            return options_for(OUTSIDE, self.shapes[name][1])
        return options_for((DENSE if dense else ()) + (SPARSE if sparse else ()), self.shapes[name][1])

    def bytes(self, name: str, option: str) -> int:
        """Bytes of a matrix in a level, with what only a low-rank part makes the folder say about it."""
        packed = predicted_bytes(self.shapes[name], level(option).steps, self.dtypes[name])
        return packed + (LOW_RANK_CONFIG_BYTES if is_low_rank(option) else 0)

    def milliseconds(self, name: str, option: str, state: State) -> float:
        """Milliseconds of a matrix in a decode step; an embedding that is no head takes none."""
        if name == self.embedding and not self.tied:
            return 0.0
        key = _key(self.shapes[name], option)
        if key not in state.section("milliseconds"):
            state.put("milliseconds", key, kernel_ms(self.shapes[name], option))
        value: float = state.section("milliseconds")[key]
        return value


def _side_bytes(source: Source) -> int:
    """Bytes of the tokenizer and the settings that go with the weights."""
    with tempfile.TemporaryDirectory() as folder:
        copy_side_files(source, Path(folder))
        return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def _key(shape: tuple[int, int], option: str) -> str:
    return f"{shape[0]}x{shape[1]} {option}"


def time_kernels(costs: Costs, state: State, progress: Progress) -> None:
    """Time every level of every shape; writes the section `milliseconds`."""
    known = state.section("milliseconds")
    wanted = {
        _key(costs.shapes[name], option): (costs.shapes[name], option)
        for name in costs.shapes
        for option in costs.options(name, sparse=True)
    }
    todo = [key for key in wanted if key not in known]
    for number, key in enumerate(todo):
        progress("timing kernels", number, len(todo))
        state.put("milliseconds", key, kernel_ms(*wanted[key]))
    if todo:
        progress("timing kernels", len(todo), len(todo))
        state.save()


def kernel_ms(shape: tuple[int, int], option: str) -> float:
    """Return the time of one product with one token, the matrix read from memory, without the time of calling it."""
    whole = _product_ms(shape, option)
    return max(whole - _call_ms(option), LEAST_SHARE * whole)


@cache
def _call_ms(option: str) -> float:
    return _product_ms(SMALLEST, option)


def _product_ms(shape: tuple[int, int], option: str) -> float:
    packed = packed_random(shape, option)
    count = max(1, min(MOST_COPIES, COLD_BYTES // packed.num_bytes))
    copies = [{name: tensor.clone() for name, tensor in packed.tensors().items()} for _ in range(count)]
    products = [product(*as_multiplied(packed.meta(), each)) for each in copies]
    x_1I = torch.randn(1, shape[1], generator=torch.Generator().manual_seed(1))
    seconds = []
    for _ in range(PASSES + 1):
        started = time.perf_counter()
        for multiply in products:
            multiply(x_1I, "int8")
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds[1:]) / count


def packed_random(shape: tuple[int, int], option: str) -> PackedWeight:
    """Return random numbers as a matrix of that shape (O, I) and level is stored."""
    weight_OI = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    chosen = level(option)
    layer = LayerWeight(weight_OI)
    if chosen.target is not None:
        layer = layer.pruned(chosen.target.pattern.keep_largest(weight_OI.abs(), chosen.target.share))
    grid = RTN(**chosen.grid.model_dump(include={"bits", "group_size", "symmetric"}), search=False)
    layer = rtn(layer, None, grid, [])
    factors = None
    if chosen.low_rank is not None:
        rank = chosen.low_rank.rank_for(*shape)
        factors = Factors.rounded(weight_OI[:, :rank], weight_OI[:rank])
    return pack(layer.weight_OI, layer.mask_OI, layer.quantized, torch.bfloat16, factors)
