"""A model to read: a safetensors folder, a GGUF file, a hub id, or a folder that Gossamer compressed.

`open_model` checks the input fully before it believes it, then gives a `Source`. Weights stay on disk: mapped
(safetensors) or quantized (GGUF, whose blocks are on the meta device). `materialise` gives one block in
float32.
"""

import copy
import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from gossamer.checkpoint.architecture import Architecture, describe
from gossamer.checkpoint.manifest import MANIFEST_NAME
from gossamer.checkpoint.read import hub
from gossamer.checkpoint.read.folder import CONVERT, PICKLED
from gossamer.checkpoint.read.gguf import GGUFModelReader
from gossamer.checkpoint.read.gguf_split import gguf_in_folder
from gossamer.checkpoint.read.huggingface import FolderReader
from gossamer.checkpoint.read.mapped import give_back_pages
from gossamer.errors import CheckpointError


class Reader(Protocol):
    """What `Source` needs of a file format."""

    kind: str
    config: PretrainedConfig
    skeleton: PreTrainedModel
    weight_files: tuple[Path, ...]
    side_files: tuple[Path, ...]
    unused_tensors: tuple[str, ...]

    def load(self) -> PreTrainedModel: ...
    def load_dense(self, dtype: torch.dtype) -> PreTrainedModel: ...
    def parameter(self, name: str, current: nn.Parameter) -> Tensor: ...
    def tokenizer(self) -> PreTrainedTokenizerBase | None: ...
    def generation(self) -> dict[str, Any]: ...


class Source:
    """An opened model. Nothing of it is in memory but what has been asked for."""

    def __init__(self, path: Path, reader: Reader):
        self.path = path
        self.kind = reader.kind
        """"safetensors", "gguf" or "gossamer"."""
        self.config = reader.config
        self.reader = reader
        self._originals: dict[str, nn.Module] = {}

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model on the CPU in eval mode.

        safetensors: parameters are views of the mapped files, in the stored dtype. GGUF: everything outside
        the blocks in float32, the blocks on the meta device. Replace blocks with `materialise` and
        `set_submodule`.
        """
        return self.reader.load()

    @cached_property
    def architecture(self) -> Architecture:
        """Blocks, linears and ties by structure; reads no weights."""
        return describe(self.reader.skeleton)

    @cached_property
    def num_parameters(self) -> int:
        """Parameters of the dense model, tied ones once."""
        return sum(parameter.numel() for parameter in self.reader.skeleton.parameters())

    @property
    def auto_class_name(self) -> str:
        """Name of the transformers class that the model is."""
        return type(self.reader.skeleton).__name__

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of the weights, the configuration and the tokenizer; gossamer.json is not part of the model."""
        files = {*self.reader.weight_files, *self.reader.side_files}
        files = {file for file in files if file.name != MANIFEST_NAME}
        return sum(file.stat().st_size for file in files)

    @property
    def unused_tensors(self) -> tuple[str, ...]:
        """Stored tensors that the model class has no place for (known after `model` has been used)."""
        return self.reader.unused_tensors

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Return the tokenizer, None if the model has none. Loaded once."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase | None:
        return self.reader.tokenizer()

    def generation(self) -> dict[str, Any]:
        """Return what the model says of how its text is written, by the names of generation_config.json.

        Only what is written somewhere is here, no defaults of classes; `eos_token_id`, if there, is a list.
        """
        return self.reader.generation()

    def materialise(self, name: str) -> nn.Module:
        """Return a float32 copy of the module `name` as the parent has it; `model` is left as it is."""
        tied = dict(self.architecture.tied)
        original = self._originals.setdefault(name, self.model.get_submodule(name))
        memo: dict[int, object] = {id(self.model.config): self.model.config}
        for local, parameter in original.named_parameters(remove_duplicate=False):
            full = f"{name}.{local}"
            if id(parameter) not in memo:
                value = self.reader.parameter(tied.get(full, full), parameter)
                memo[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
                give_back_pages([parameter])
        for module in original.modules():
            config = getattr(module, "config", None)
            if isinstance(config, PretrainedConfig):
                memo[id(config)] = config
        return copy.deepcopy(original, memo).float()

    def release(self, name: str) -> None:
        """Put the module `name` back as it was before it was replaced: mapped, or on the meta device."""
        if name in self._originals:
            self.model.set_submodule(name, self._originals.pop(name))

    def load_dense(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Return a new model, all of it in memory in `dtype`, in eval mode."""
        return self.reader.load_dense(dtype)

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of the contents of the weight files, in the order of their names. Read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file in sorted(self.reader.weight_files):
            with file.open("rb") as content:
                while chunk := content.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


def open_model(path_or_id: str | Path, *, dtype: torch.dtype | None = None) -> Source:
    """Open a model folder, a .gguf file or a hub id; an existing path wins over a hub id.

    Args:
        path_or_id: what to open.
        dtype: convert the parameters to this dtype; None keeps the stored one (and keeps them mapped).

    Raises:
        CheckpointError: missing, truncated, corrupted, incomplete or pickled weights; nothing of that name.
        UnsupportedModelError: sound, but of an architecture or tensor type that is not handled.
    """
    path = Path(path_or_id).expanduser()
    if not path.exists():
        if not hub.is_hub_id(str(path_or_id)) or path.suffix in (".gguf", ".safetensors", *PICKLED):
            raise CheckpointError(
                f"{path}: expected a model folder, a .gguf file or a hub id; no such path exists."
            )
        path = hub.fetch(str(path_or_id))
    if path.is_dir():
        gguf = None if (path / "config.json").exists() else gguf_in_folder(path)
        if gguf is None:
            return Source(path, FolderReader(path, dtype))
        path = gguf
    _refuse_other_files(path)
    return Source(path, GGUFModelReader(path, dtype))


def _refuse_other_files(path: Path) -> None:
    if path.suffix in PICKLED:
        raise CheckpointError(
            f"{path}: expected safetensors or GGUF, got pickled weights, which are refused: unpickling "
            "executes "
            "whatever code the file contains. If you trust the file, convert its folder once:\n"
            + CONVERT.format(folder=path.parent)
        )
    if path.suffix == ".safetensors" or path.name.endswith(".json"):
        raise CheckpointError(
            f"{path}: expected a model folder or a .gguf file. Give the folder: {path.parent}"
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a model folder or a .gguf file, got something else.")
