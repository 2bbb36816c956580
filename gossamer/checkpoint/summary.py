"""What is in a model: every weight matrix with its shape, bytes, zeros and stored format.

Weights are read one at a time (mapped, dequantized or unpacked), so a model of any size can be inspected.
O output features, I input features.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossamer.checkpoint.read.gguf import GGUFModelReader
from gossamer.checkpoint.read.gguf_zeros import count_zeros
from gossamer.checkpoint.read.huggingface import FolderReader
from gossamer.checkpoint.source import Source, open_model
from gossamer.checkpoint.untouched import Untouched, untouched
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.weight import PackedWeight
from gossamer.layers.packed_module import PackedModule
from gossamer.progress import Progress, silent

_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_SLICE = 1 << 22
"""Elements that are compared with zero at a time."""


@dataclass(frozen=True, slots=True)
class MatrixSummary:
    """One weight matrix."""

    name: str
    role: str
    """"block" (a linear in a block), "other" (a linear outside), "head" or "embedding"."""
    shape: tuple[int, int]
    """(O, I); (rows, width) for an embedding."""
    parameters: int
    size_bytes: int
    """Bytes stored for the weight, without the bias; 0 when it is tied to another."""
    sparsity: float
    """Share of exact zeros."""
    format: str
    """A dtype ("bfloat16"), a ggml type ("Q4_1"), a packed format ("bitmask int4 group 64"), "tied to X"."""


@dataclass(frozen=True, slots=True)
class OtherSummary:
    """A parameter of a block with two dimensions or more that is no linear: fused experts, a router, a convolution."""

    name: str
    shape: tuple[int, ...]
    """As it is held: fused experts have the experts first."""
    expert_matrices: int
    """How many matrices of experts lie in it; 0 for other parameters."""
    parameters: int
    sparsity: float
    """Share of exact zeros."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What `gossamer inspect` shows."""

    path: str
    kind: str
    model_class: str
    model_type: str
    stacks: tuple[int, ...]
    """Number of blocks in each stack: (30,) for a decoder, (encoder, decoder) for T5."""
    matrices: tuple[MatrixSummary, ...]
    """In the order in which they run: embeddings, blocks, other linears, head."""
    others: tuple[OtherSummary, ...]
    """What in the blocks is no linear, and stays dense."""
    untouched: Untouched
    """How much that is."""
    tied: tuple[tuple[str, str], ...]
    num_parameters: int
    """All parameters, tied ones once."""
    weight_bytes: int
    """Bytes of all stored tensors."""
    size_bytes: int
    """Bytes on disk: weights, configuration, tokenizer."""
    sparsity: float
    """Share of exact zeros in all weights of the blocks: linears, experts, and what else has two dimensions."""
    bits_per_parameter: float
    """8 * weight_bytes / num_parameters."""
    unused_tensors: tuple[str, ...]

    @property
    def num_blocks(self) -> int:
        return sum(self.stacks)

    @property
    def linears(self) -> tuple[MatrixSummary, ...]:
        """Every matrix that is no embedding."""
        return tuple(matrix for matrix in self.matrices if matrix.role != "embedding")

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dictionaries and numbers, ready for JSON."""
        return {
            **asdict(self),
            "num_blocks": self.num_blocks,
            "untouched": self.untouched.to_dict(),
            "notes": self.untouched.notes,
        }


def inspect(path_or_id: str | Path, progress: Progress = silent) -> Summary:
    """Return the summary of a model folder, GGUF file or hub model; raises as `open_model` does.

    `progress` counts matrices.
    """
    return summarise(open_model(path_or_id), progress)


def summarise(source: Source, progress: Progress = silent) -> Summary:
    """Return the summary of an opened model."""
    architecture = source.architecture
    matrices = tuple(_matrices(source, progress))
    inside = [matrix for matrix in matrices if matrix.role == "block"]
    others = tuple(_others(source))
    zeros = sum(each.sparsity * each.parameters for each in inside)
    zeros += sum(each.sparsity * each.parameters for each in others)
    counted = untouched(architecture)
    weight_bytes = _weight_bytes(source)
    return Summary(
        path=str(source.path),
        kind=source.kind,
        model_class=architecture.model_class,
        model_type=architecture.model_type,
        stacks=tuple(len(stack) for stack in architecture.stacks),
        matrices=matrices,
        others=others,
        untouched=counted,
        tied=architecture.tied,
        num_parameters=source.num_parameters,
        weight_bytes=weight_bytes,
        size_bytes=source.size_bytes,
        sparsity=zeros / max(counted.block_weights, 1),
        bits_per_parameter=8 * weight_bytes / max(source.num_parameters, 1),
        unused_tensors=source.unused_tensors,
    )


def _matrices(source: Source, progress: Progress) -> Iterator[MatrixSummary]:
    architecture = source.architecture
    roles = [(name, "embedding") for name in architecture.embeddings]
    roles += [(name, "block") for block in architecture.blocks for name in architecture.linears(block)]
    roles += [(name, "other") for name in architecture.other_linears]
    if architecture.output_head is not None:
        roles.append((architecture.output_head, "head"))
    known: dict[str, tuple[int, float, str]] = {}
    for done, (name, role) in enumerate(roles):
        progress("reading matrices", done, len(roles))
        yield _matrix(source, name, role, known)


def _others(source: Source) -> Iterator[OtherSummary]:
    """Summarise what in the blocks is no linear."""
    parts, skeleton, reader = source.architecture, source.reader.skeleton, source.reader
    for block in parts.blocks:
        experts = Counter(parts.matrix(name).parameter for name in parts.block_experts[block])
        for name in (*experts, *parts.block_others[block]):
            held = skeleton.get_parameter(name)
            stored = (
                reader.read(name) if isinstance(reader, GGUFModelReader) else source.model.get_parameter(name)
            )
            yield OtherSummary(name, tuple(held.shape), experts[name], held.numel(), share_of_zeros(stored))


def _matrix(source: Source, name: str, role: str, known: dict[str, tuple[int, float, str]]) -> MatrixSummary:
    """Summarise one matrix; `known` holds what `_stored` returned for originals that others are tied to."""
    matrix = source.architecture.matrix(name)
    tied = dict(source.architecture.tied).get(f"{name}.weight")
    original = tied.removesuffix(".weight") if tied else name
    if original not in known:
        known[original] = _stored(source, original)
    size_bytes, sparsity, stored = known[original]
    if tied is not None:
        size_bytes, stored = 0, f"tied to {original}"
    return MatrixSummary(name, role, matrix.shape, matrix.numel, size_bytes, sparsity, stored)


def _stored(source: Source, name: str) -> tuple[int, float, str]:
    """Return (bytes, sparsity, format) of the weight of the module `name`."""
    reader = source.reader
    if isinstance(reader, GGUFModelReader):
        tensor = reader.file.tensors[reader.stored_names[f"{name}.weight"]]
        format_name = _NAMES.get(tensor.type_name, tensor.type_name)
        zeros = count_zeros(reader.file, tensor.name) / max(math.prod(tensor.shape), 1)
        return tensor.num_bytes, zeros, format_name
    module = source.model.get_submodule(name)
    if isinstance(module, PackedModule) and module.meta is not None:
        packed = module.packed
        return packed.num_bytes, _packed_zeros(packed), describe_format(module.meta)
    weight = module.weight
    assert isinstance(weight, Tensor) and isinstance(reader, FolderReader)
    in_file = reader.folder.tensors.get(f"{name}.weight")
    if in_file is None:  # stored under a name that transformers changes while loading
        return weight.nbytes, share_of_zeros(weight), str(weight.dtype).removeprefix("torch.")
    return in_file.num_bytes, share_of_zeros(weight), _NAMES.get(in_file.dtype, in_file.dtype)


def _packed_zeros(packed: PackedWeight) -> float:
    """Return the share of zeros of a packed weight; of the sparse part where there is a low-rank one."""
    counted = packed.residual if isinstance(packed, LowRankWeight) else packed
    return 1.0 if counted is None else counted.num_zeros() / math.prod(counted.shape)


def share_of_zeros(weight: Tensor) -> float:
    """Return the share of elements that are exactly zero; 0 for an empty tensor."""
    flat = weight.detach().reshape(-1)
    nonzero = sum(int(part.count_nonzero()) for part in torch.split(flat, _SLICE)) if len(flat) else 0
    return (len(flat) - nonzero) / max(len(flat), 1)


def describe_format(meta: Mapping[str, Any]) -> str:
    """Return a packed weight's declaration in a few words: "bitmask int4 group 64 + rank 16"."""
    if "rank" in meta:
        residual = meta.get("residual")
        return f"{describe_format(residual)} + rank {meta['rank']}" if residual else f"rank {meta['rank']}"
    words = [str(meta["format"])]
    if "keep" in meta:
        words.append(f"{meta['keep']}:{meta.get('window', 16)}")
    if "values" in meta:
        words.append(str(meta["values"]))
    elif "dtype" in meta:
        words.append(str(meta["dtype"]))
    if meta.get("bits") is not None:
        words.append(f"{meta['bits']} bits")
    if meta.get("group_size") is not None:
        words.append(f"group {meta['group_size']}")
    return " ".join(words)


def _weight_bytes(source: Source) -> int:
    reader = source.reader
    if isinstance(reader, GGUFModelReader):
        return sum(tensor.num_bytes for tensor in reader.file.tensors.values())
    assert isinstance(reader, FolderReader)
    return sum(tensor.num_bytes for tensor in reader.folder.tensors.values())
