"""Models in Hugging Face folders: safetensors read through transformers, mapped and not copied.

transformers hands out parameters that are views of the mapped file when the dtype is the stored one, so
opening a model costs no memory. It also fills what a checkpoint lacks with random numbers: here that is an
error.
"""

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from gossamer.checkpoint.architecture import tied_parameters
from gossamer.checkpoint.read.folder import ModelFolder, read_folder
from gossamer.checkpoint.read.generation import read_generation
from gossamer.checkpoint.read.quiet import quiet
from gossamer.checkpoint.read.skeleton import build_skeleton, config_from_dict, sketched
from gossamer.checkpoint.read.ties import own_weights, stored_twice, untie
from gossamer.errors import CheckpointError, GossamerError, UnsupportedModelError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
)


class FolderReader:
    """A checked folder, and how its model, parameters and tokenizer are had."""

    def __init__(self, path: Path, dtype: torch.dtype | None = None):
        self.folder: ModelFolder = read_folder(path)
        method = self.folder.quant_method
        if method not in (None, "gossamer"):
            raise UnsupportedModelError(
                f"{path}: expected dense weights or a folder compressed by Gossamer, got quant_method = "
                f"{method!r}. "
                "Use the original (unquantized) model, or dequantize this one and save it."
            )
        self.kind = "safetensors" if method is None else "gossamer"
        self.config: PretrainedConfig = config_from_dict(self.folder.config, str(path / "config.json"))
        self.skeleton: PreTrainedModel = build_skeleton(self.config, len(self.folder.tensors), str(path))
        self.weight_files = self.folder.weight_files
        self.side_files = self.folder.side_files
        self.unused_tensors: tuple[str, ...] = ()
        self._dtype = dtype
        if self.kind == "safetensors":
            self._check_size()
            self._check_types()
            if stored_twice(self.skeleton, self.folder.tensors):
                untie(self.skeleton, _separate(self.skeleton, self._load("auto")))
        else:
            modules = self.folder.config["quantization_config"].get("modules")
            packed = (
                modules if isinstance(modules, dict) else {}
            )  # what else it may be is refused when it is loaded
            untie(self.skeleton, own_weights(self.skeleton, self.folder.tensors, packed))

    def load(self) -> PreTrainedModel:
        """Return the model in the stored dtype (or the one asked for), mapped where nothing is converted.

        Raises CheckpointError when other parameters are tied in it than `skeleton` says.
        """
        return self._load_as_described("auto" if self._dtype is None else self._dtype)

    def load_dense(self, dtype: torch.dtype) -> PreTrainedModel:
        """Return a new model with every parameter in memory, in `dtype`."""
        model = self._load_as_described(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.data = parameter.data.clone()
        return model

    def parameter(self, name: str, current: nn.Parameter) -> Tensor:
        """Return a float32 copy of a parameter of the loaded model."""
        return current.detach().to(torch.float32, copy=True)

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Return the tokenizer in the folder, None if there is none."""
        path = self.folder.path
        if not any((path / name).is_file() for name in TOKENIZER_FILES):
            return None
        try:
            with quiet():
                return transformers.AutoTokenizer.from_pretrained(
                    path, trust_remote_code=False, local_files_only=True
                )
        except Exception as error:
            raise CheckpointError(
                f"{path}: expected a tokenizer that transformers can load without running code from the "
                "folder, "
                f"got {type(error).__name__}: {error!s:.300}."
            ) from error

    def generation(self) -> dict[str, Any]:
        """Return what the folder says of generation."""
        return read_generation(self.folder.path, self.folder.config)

    def _check_types(self) -> None:
        """Codes whose scales are tensors of their own would be taken for weights."""
        for name, tensor in self.folder.tensors.items():
            if (
                len(tensor.shape) > 1
                and tensor.dtype.startswith(("I", "U", "F8"))
                and name.endswith("weight")
            ):
                raise UnsupportedModelError(
                    f"{self.folder.path}: {name} is of type {tensor.dtype}; F64, F32, F16 or BF16 was expected. "
                    "Use the original (unquantized) model, or dequantize this one and save it."
                )

    def _check_size(self) -> None:
        """A config far larger than its weights must not make transformers allocate the difference."""
        expected = sum(parameter.numel() for parameter in self.skeleton.parameters())
        stored = sum(torch.Size(tensor.shape).numel() for tensor in self.folder.tensors.values())
        if expected > 2 * stored:
            raise CheckpointError(
                f"{self.folder.path}: expected weights for the {expected} parameters that config.json "
                "describes, "
                f"got {stored}. The configuration does not belong to these weights, or weights are missing."
            )

    def _load_as_described(self, dtype: torch.dtype | str) -> PreTrainedModel:
        model = self._load(dtype)
        if self.kind == "safetensors" and (separate := _separate(self.skeleton, model)):
            raise CheckpointError(
                f"{self.folder.path}: {separate[0]} was expected to be one tensor with another, as config.json "
                "declares, but the file holds one of its own. Set tie_word_embeddings to false in config.json."
            )
        return model

    def _load(self, dtype: torch.dtype | str) -> PreTrainedModel:
        prefix = self.folder.prefix
        renamed = {"key_mapping": {f"^{re.escape(prefix)}": ""}} if prefix else {}
        try:
            with quiet(), sketched(type(self.skeleton)):
                model, info = type(self.skeleton).from_pretrained(
                    self.folder.path,
                    config=None if self.kind == "gossamer" else self.config,
                    dtype=dtype,
                    use_safetensors=True,
                    local_files_only=True,
                    ignore_mismatched_sizes=self.kind == "safetensors",
                    output_loading_info=True,
                    **renamed,
                )
        except GossamerError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"{self.folder.path}: transformers cannot load it ({type(error).__name__}: {error!s:.400})."
            ) from error
        self._check_loading(model, info)
        return model.eval()

    def _check_loading(self, model: PreTrainedModel, info: dict[str, Any]) -> None:
        where, name = self.folder.path, type(model).__name__
        if mismatched := sorted(info["mismatched_keys"]):
            tensor, stored, expected = mismatched[0]
            raise CheckpointError(
                f"{where}, tensor {tensor!r}: expected shape {list(expected)} for {name} as configured, got "
                f"{list(stored)} ({len(mismatched)} such tensors). The configuration does not belong to "
                "these weights."
            )
        if missing := sorted(info["missing_keys"]):
            raise CheckpointError(
                f"{where}: expected every weight of {name}, {len(missing)} are missing "
                f"({', '.join(missing[:3])}). They would start at random. {_what_to_do(model, info)}"
            )
        if errors := info.get("error_msgs"):
            raise CheckpointError(f"{where}: the weights do not fit {name}: {errors[0]!s:.300}")
        known = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
        unexpected = sorted(info["unexpected_keys"])
        self.unused_tensors = tuple(k for k in unexpected if not any(re.search(p, k) for p in known))


def _separate(skeleton: PreTrainedModel, model: PreTrainedModel) -> list[str]:
    """Return the parameters that are tied in `skeleton` and not in the loaded `model`."""
    pairs, tied = tied_parameters(skeleton), tied_parameters(model)
    groups = [{original, *(copy for copy, of in tied if of == original)} for _copy, original in tied]
    return [copy for copy, original in pairs if not any({copy, original} <= group for group in groups)]


def _what_to_do(model: PreTrainedModel, info: dict[str, Any]) -> str:
    """Return how weights that are missing may be had."""
    may_be_tied = set(getattr(model, "_tied_weights_keys", None) or ())
    if set(info["missing_keys"]) <= may_be_tied:
        return "If they are to share the embeddings, set tie_word_embeddings to true in config.json."
    others = sorted(info["unexpected_keys"])
    instead = (
        f"The file has {len(others)} that {type(model).__name__} has no place for ({', '.join(others[:3])}). "
    )
    return (
        f"{instead if others else ''}Get the whole checkpoint, or name the class that it really is under "
        "'architectures' in config.json."
    )
