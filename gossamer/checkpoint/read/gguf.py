"""Models in GGUF files: dequantized parameter by parameter, when asked for.

Names come from gguf's own table (`get_tensor_name_map`). llama.cpp changes some weights when it converts a
model; `TRANSFORMS` undoes that:
    llama   rows of q and k are paired for its rotary layout (i, i + d/2 interleaved): put them back in halves
    gemma3  norms are stored as 1 + w
    gpt2    `Conv1D` weights are stored as [O, I]: transpose back to [I, O]

O output features, I input features, H heads, D half a head's width.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import MODEL_ARCH_NAMES, GGMLQuantizationType
from gguf.quants import dequantize
from gguf.tensor_mapping import get_tensor_name_map
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from gossamer.checkpoint.architecture import describe
from gossamer.checkpoint.read.gguf_config import read_config
from gossamer.checkpoint.read.gguf_header import GGUFFile
from gossamer.checkpoint.read.gguf_keys import SAMPLING
from gossamer.checkpoint.read.gguf_split import read_gguf_model
from gossamer.checkpoint.read.gguf_tokenizer import read_tokenizer
from gossamer.checkpoint.read.gguf_vocabulary import end_ids
from gossamer.checkpoint.read.skeleton import build_skeleton, fill_buffers, set_parameter
from gossamer.errors import CheckpointError, UnsupportedModelError

_SLICE_BYTES = 1 << 20


class GGUFModelReader:
    """A checked GGUF file, and how its model, parameters and tokenizer are had."""

    kind = "gguf"
    side_files: tuple[Path, ...] = ()
    unused_tensors: tuple[str, ...] = ()

    def __init__(self, path: Path, dtype: torch.dtype | None = None):
        self.file: GGUFFile = read_gguf_model(path)
        self.config: PretrainedConfig = read_config(self.file)
        self.skeleton: PreTrainedModel = self._build()
        self.weight_files: tuple[Path, ...] = self.file.parts
        self.stored_names: dict[str, str] = map_names(self.skeleton, self.file)
        """Parameter name -> name in the file; of tied parameters only the original."""
        self._dtype = torch.float32 if dtype is None else dtype

    def load(self) -> PreTrainedModel:
        """Return the model with everything outside the blocks filled, the blocks on the meta device."""
        inside = tuple(block + "." for block in describe(self.skeleton).blocks)
        names = [name for name in self.stored_names if not name.startswith(inside)]
        return self._fill(self._build(), names, self._dtype)

    def load_dense(self, dtype: torch.dtype) -> PreTrainedModel:
        """Return a new model with every parameter dequantized to `dtype`."""
        return self._fill(self._build(), list(self.stored_names), dtype)

    def parameter(self, name: str, current: nn.Parameter) -> Tensor:
        """Return a parameter of the file in float32."""
        return self.read(name)

    def read(self, name: str) -> Tensor:
        """Dequantize the parameter `name` to float32, as transformers lays it out."""
        stored = self.stored_names[name]
        values = read_tensor(self.file, stored)
        transform = TRANSFORMS.get(self.config.model_type)
        if transform is not None:
            values = transform(stored, values, self.config)
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Return the tokenizer in the file, None if there is none."""
        return read_tokenizer(self.file) if "tokenizer.ggml.tokens" in self.file.metadata else None

    def generation(self) -> dict[str, Any]:
        """Return what generation_config.json would say: every token that ends a text, and sampling defaults."""
        said: dict[str, Any] = {"eos_token_id": list(end_ids(self.file))}
        said |= {name: self.file.metadata.get(key) for key, name in SAMPLING.items()}
        if said["temperature"] is not None:
            said["do_sample"] = said["temperature"] > 0
        return {name: value for name, value in said.items() if value is not None and value != []}

    def _build(self) -> PreTrainedModel:
        return build_skeleton(self.config, len(self.file.tensors), str(self.file.path))

    def _fill(self, model: PreTrainedModel, names: list[str], dtype: torch.dtype) -> PreTrainedModel:
        fill_buffers(model)
        for name in names:
            set_parameter(model, name, self.read(name).to(dtype))
        model.tie_weights()
        model.config.dtype = dtype
        if model.can_generate():
            others = {name: getattr(self.config, name) for name in ("bos_token_id", "pad_token_id")}
            model.generation_config = GenerationConfig(**self.generation(), **others)
        return model.eval()


def read_tensor(file: GGUFFile, stored: str) -> np.ndarray:
    """Return a stored tensor in float32, dequantized in slices: little more than the result is allocated."""
    tensor = file.tensors[stored]
    raw, kind = file.raw(stored), GGMLQuantizationType[tensor.type_name]
    values = np.empty(tensor.shape, dtype=np.float32)
    rows = values.reshape(-1, tensor.shape[-1])
    raw_rows = raw.reshape(rows.shape[0], -1)
    step = max(_SLICE_BYTES // max(raw_rows.shape[1], 1), 1)
    with np.errstate(
        all="ignore"
    ):  # scales of corrupted data may be NaN or infinite; the caller looks at values
        for begin in range(0, rows.shape[0], step):
            part = dequantize(raw_rows[begin : begin + step].reshape(1, -1), kind)  # one row: one numpy pass
            rows[begin : begin + step] = part.reshape(-1, rows.shape[1])
    return values


def map_names(model: PreTrainedModel, file: GGUFFile) -> dict[str, str]:
    """Return parameter name -> tensor name, after checking that each has its tensor and shape."""
    architecture = str(file.metadata["general.architecture"])
    arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
    table = get_tensor_name_map(arch, model.config.num_hidden_layers)
    names: dict[str, str] = {}
    for parameter_name, parameter in model.named_parameters():
        module, _, leaf = parameter_name.rpartition(".")
        stored = f"{table.get_name(module)}.{leaf}"
        if stored not in file.tensors:
            raise CheckpointError(
                f"{file.path}: expected a tensor {stored!r} for {parameter_name}, there is none. "
                "The file is incomplete or of a variant that is not handled."
            )
        _check_shape(file, stored, parameter_name, tuple(parameter.shape), architecture)
        names[parameter_name] = stored
    of_config = {"rope_freqs.weight"} if architecture == "llama" else set()
    unknown = sorted(set(file.tensors) - set(names.values()) - of_config)
    if unknown:
        raise UnsupportedModelError(
            f"{file.path}: expected the tensors of {type(model).__name__} only, got {len(unknown)} others "
            f"({', '.join(unknown[:3])}). This variant of {architecture!r} is not handled."
        )
    return names


def _check_shape(
    file: GGUFFile, stored: str, name: str, expected: tuple[int, ...], architecture: str
) -> None:
    got = file.tensors[stored].shape
    if architecture == "gpt2" and _TRANSPOSED.search(stored):
        got = got[::-1]
    if got != expected:
        raise CheckpointError(
            f"{file.path}, tensor {stored!r}: expected shape {list(expected)} for {name}, as the metadata "
            "say, "
            f"got {list(got)}. The file is corrupted or of a variant that is not handled."
        )


def _undo_llama(stored: str, values: np.ndarray, config: PretrainedConfig) -> np.ndarray:
    """[H * D * 2, ...] in pairs -> [H * 2 * D, ...] in halves, for q and k."""
    if ".attn_q." in stored:
        num_heads = config.num_attention_heads
    elif ".attn_k." in stored:
        num_heads = config.num_key_value_heads
    else:
        return values
    paired_HD2 = values.reshape(num_heads, values.shape[0] // num_heads // 2, 2, *values.shape[1:])
    return paired_HD2.swapaxes(1, 2).reshape(values.shape)


def _undo_gemma(stored: str, values: np.ndarray, config: PretrainedConfig) -> np.ndarray:
    return values - 1.0 if stored.endswith("norm.weight") else values


def _undo_gpt2(stored: str, values: np.ndarray, config: PretrainedConfig) -> np.ndarray:
    return values.T if _TRANSPOSED.search(stored) else values


_TRANSPOSED = re.compile(r"^blk\.\d+\.(attn_qkv|attn_output|ffn_up|ffn_down)\.weight$")
TRANSFORMS: dict[str, Callable[[str, np.ndarray, PretrainedConfig], np.ndarray]] = {
    "llama": _undo_llama,
    "gemma3_text": _undo_gemma,
    "gpt2": _undo_gpt2,
}
