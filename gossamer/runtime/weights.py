"""The weights of a model for the engine: mapped from the files, all of it checked before it runs.

Nothing is repacked but int4 bitmasks where they would be slow (`gossamer.kernels.expand`).
"""

from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PretrainedConfig

from gossamer.checkpoint.manifest import FORMAT_VERSION, MANIFEST_NAME, read_manifest
from gossamer.checkpoint.read.folder import ModelFolder, read_folder
from gossamer.checkpoint.read.skeleton import config_from_dict
from gossamer.checkpoint.source import open_model
from gossamer.errors import CheckpointError, FormatError, RunError, UnsupportedModelError
from gossamer.formats.checks import check_tensors
from gossamer.formats.dense import DenseWeight
from gossamer.formats.packed import from_tensors, tensor_specs
from gossamer.kernels import table
from gossamer.kernels.cpu import CpuMatrix, LowRankMatrix
from gossamer.kernels.declaration import Meta, Tensors
from gossamer.kernels.expand import as_multiplied

if TYPE_CHECKING:
    from gossamer.kernels import _native

OURS = "gossamer"
"""`quant_method` of the folders that Gossamer wrote."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32)


class Weights:
    """Matrices and vectors by name. `where` is for errors."""

    def __init__(
        self,
        where: str,
        config: PretrainedConfig,
        read: Callable[[str], Tensor],
        names: Collection[str],
        packed: Mapping[str, Meta],
        tied: Mapping[str, str],
    ):
        self.where = where
        self.config = config
        self._read = read
        self._names = names
        self._packed = packed
        self._tied = tied
        self._matrices: dict[tuple[str, bool], _native.Matrix] = {}
        self.expanded = 0
        """How many matrices are multiplied in another form than they are stored in."""

    def has(self, module: str) -> bool:
        """Whether the module has a weight of its own, packed or dense, or shares one by declaration."""
        return module in self._tied or module in self._packed or self._stored(f"{module}.weight") is not None

    def matrix(self, module: str, transposed: bool = False) -> "_native.Matrix":
        """Return the native matrix of a module; the same object at each call.

        `transposed`: a dense weight is stored [inputs, outputs]. CheckpointError: it is missing or contradicts its
        declaration.
        """
        owner = self._tied.get(module, module)
        key = (owner, transposed)
        if key not in self._matrices:
            meta = self._packed.get(owner)
            try:
                made = self._dense(owner, transposed) if meta is None else self._from_packed(owner, meta)
            except (FormatError, ValueError) as error:
                raise CheckpointError(f"{self.where}: {owner}: {error}") from error
            self._matrices[key] = made
        return self._matrices[key]

    def low_rank(self, module: str) -> LowRankMatrix | None:
        """Return the native parts of a weight with a low-rank part; None for others, and where one has no kernel."""
        meta = self._packed.get(module)
        if meta is None or meta["format"] != "low_rank":
            return None
        try:
            made = self._made(meta, self._tensors_of(module, meta))
        except FormatError as error:
            raise CheckpointError(f"{self.where}: {module}: {error}") from error
        assert made is None or isinstance(made, LowRankMatrix)
        return made

    def vector(self, name: str, offset: float = 0.0) -> Tensor:
        """Return a parameter as contiguous float32, `offset` added."""
        tensor = self._tensor(name)
        if tensor.ndim != 1 or tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"{self.where}: {name}: expected a vector of floats, got {tensor.dtype} {list(tensor.shape)}."
            )
        return tensor.detach().float().contiguous() + offset

    def bias(self, module: str) -> Tensor | None:
        """Return the bias of a module, None if there is none."""
        name = f"{module}.bias"
        return None if self._stored(name) is None else self.vector(name)

    def _stored(self, name: str) -> str | None:
        """The name under which a tensor is stored: folders of a base model leave the first component out."""
        for known in (name, name.partition(".")[2]):
            if known in self._names:
                return known
        return None

    def _tensor(self, name: str) -> Tensor:
        known = self._stored(name)
        if known is None:
            raise CheckpointError(f"{self.where}: expected the tensor {name}, the files have none such.")
        return self._read(known)

    def _dense(self, module: str, transposed: bool) -> "_native.Matrix":
        weight_OI = self._tensor(f"{module}.weight").detach()
        if weight_OI.ndim != 2 or weight_OI.dtype not in FLOATS:
            raise CheckpointError(
                f"{self.where}: {module}.weight: expected a matrix of floats, got {weight_OI.dtype} "
                f"{list(weight_OI.shape)}."
            )
        return _native_dense((weight_OI.T if transposed else weight_OI).contiguous())

    def _from_packed(self, module: str, meta: Meta) -> "_native.Matrix":
        tensors = self._tensors_of(module, meta)
        made = self._made(meta, tensors)
        if isinstance(made, CpuMatrix):
            return made.native
        packed = from_tensors(meta, tensors)
        table.say_once(
            f"no native kernel for {table.describe(meta)}; the engine runs it unpacked, in float32"
        )
        return _native_dense(packed.unpack().contiguous())

    def _made(self, meta: Meta, tensors: Tensors) -> table.NativeMatrix | None:
        """Return the native matrix; of an int4 bitmask a dense one where that is faster."""
        try:
            own_meta, own_tensors = as_multiplied(meta, tensors)
            self.expanded += own_meta != meta
            return table.matrix(own_meta, own_tensors)
        except ValueError as error:
            raise FormatError(f"{table.describe(meta)}: the native kernels refuse it: {error}") from error

    def _tensors_of(self, module: str, meta: Meta) -> dict[str, Tensor]:
        specs = tensor_specs(meta)
        tensors = {name: self._tensor(f"{module}.{name}") for name in specs}
        check_tensors(meta["format"], specs, tensors)
        return tensors


def _native_dense(weight_OI: Tensor) -> "_native.Matrix":
    """Return the native matrix over contiguous floats; RunError without native kernels."""
    made = table.matrix(
        DenseWeight.declare((weight_OI.shape[0], weight_OI.shape[1]), weight_OI.dtype), {"weight": weight_OI}
    )
    if made is None:
        raise RunError("the engine needs the native kernels: reinstall gossamer with a C++20 compiler.")
    assert isinstance(made, CpuMatrix)
    return made.native


def open_weights(path: str | Path) -> Weights:
    """Open a compressed folder, a safetensors folder, a GGUF file or a hub id.

    Raises CheckpointError when it cannot be read, UnsupportedModelError for another compression than ours.
    """
    path = Path(path).expanduser()
    if (path / "config.json").is_file():
        return _from_folder(read_folder(path))
    source = open_model(path)
    if source.kind != "gguf":
        return _from_folder(read_folder(source.path))
    parameters = source.reader.skeleton.named_parameters()
    tensors = {name: _narrow(source.reader.parameter(name, meta)) for name, meta in parameters}
    tensors |= {name: tensors[original] for name, original in source.architecture.tied}
    return Weights(str(path), source.config, tensors.__getitem__, tensors, {}, {})


def _narrow(values: Tensor) -> Tensor:
    """Return a matrix in 16 bits where they hold it, as it is where they do not; vectors always as they are."""
    if values.ndim < 2:
        return values
    if torch.equal(values.bfloat16().float(), values):
        return values.bfloat16()
    half = values.half()  # of its 11 bits: what is lost beyond is range, above 65504 or below 6e-8
    return half if float((half.float() - values).norm()) <= 2**-10 * float(values.norm()) else values


def _from_folder(folder: ModelFolder) -> Weights:
    settings = folder.config.get("quantization_config")
    packed: dict[str, dict[str, Any]] = {}
    tied: dict[str, str] = {}
    if folder.quant_method == OURS:
        if (folder.path / MANIFEST_NAME).exists():
            read_manifest(
                folder.path
            )  # a damaged one is better found now than when figures are to be kept in it
        packed, tied = _table(folder, "modules", dict), _table(folder, "tied", str)
        for name, meta in packed.items():
            try:
                tensor_specs(meta)
            except FormatError as error:
                raise CheckpointError(f"{folder.path}/config.json: {name}: {error}") from error
    elif settings is not None:
        raise UnsupportedModelError(f"{folder.path}: quantized by {folder.quant_method}, which is not ours.")
    plain = {key: value for key, value in folder.config.items() if key != "quantization_config"}
    config = config_from_dict(plain, f"{folder.path}/config.json")
    return Weights(str(folder.path), config, _reader(folder), folder.tensors, packed, tied)


def _table(folder: ModelFolder, name: str, kind: type) -> dict[str, Any]:
    """Return what config.json declares about packed modules."""
    settings = folder.config["quantization_config"]
    if settings.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder.path}/config.json: format version {settings['format_version']!r:.40}, but this version of "
            f"Gossamer reads {FORMAT_VERSION}."
        )
    table = settings.get(name, {})
    table = {} if table is None else table
    if not isinstance(table, dict) or not all(isinstance(value, kind) for value in table.values()):
        raise CheckpointError(
            f"{folder.path}/config.json: quantization_config needs a table '{name}' with a {kind.__name__} for each "
            "module. Restore the file, or compress the model again."
        )
    return table


def _reader(folder: ModelFolder) -> Callable[[str], Tensor]:
    """Return what reads a tensor: a view of the mapped file, which the view keeps open."""
    owner: dict[str, Any] = {}
    for path in folder.weight_files:
        file = safe_open(path, "pt")
        owner |= dict.fromkeys(file.keys(), file)

    @cache
    def read(name: str) -> Tensor:
        stored = folder.prefix + name
        tensor: Tensor = owner[stored].get_tensor(stored)
        return tensor

    return read
