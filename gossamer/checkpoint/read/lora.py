"""A LoRA adapter in PEFT's layout, read without PEFT: what it adds to which linear, and what it puts in place of what.

    adapter_config.json          rank, alpha and their exceptions by module; what was trained beside the linears
    adapter_model.safetensors    base_model.model.MODULE.lora_A.weight [R, I], .lora_B.weight [O, R]
                                 base_model.model.MODULE.bias, and all of the modules that were trained whole

To W is added B A * alpha / R, or alpha / sqrt(R) with `use_rslora` (Kalajdzievski 2023, arXiv 2312.03732). A linear
held as [I, O] (`fan_in_fan_out`) has A and B the same way round, so that B A is [O, I] everywhere. Source:
github.com/huggingface/peft, src/peft/tuners/lora/ and src/peft/utils/save_and_load.py.

What would change the meaning of these tensors and is not known here is refused (lora_config.py).

O output features, I input features, R the rank.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from gossamer.checkpoint.read.folder import read_json
from gossamer.checkpoint.read.lora_config import LoraConfig, belongs
from gossamer.checkpoint.read.safetensors_header import read_header
from gossamer.errors import CheckpointError, UnsupportedModelError

CONFIG, WEIGHTS, PICKLED_WEIGHTS = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
FLOATS = ("F64", "F32", "F16", "BF16")
REFUSED = {
    "lora_embedding_": "adapters of embeddings are not merged",
    "lora_magnitude_vector": "DoRA is not merged",
    ".lora_B.bias": "biases of adapters are not merged",
    "trainable_tokens_": "single trained tokens are not merged",
}
"""What stands in the names of tensors that are not handled, and what they are."""


@dataclass(frozen=True)
class LoraPair:
    """What is added to one linear."""

    left_OR: Tensor
    """PEFT's lora_B, float32."""
    right_RI: Tensor
    """PEFT's lora_A, float32."""
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.left_OR.shape[0], self.right_RI.shape[1]

    def product(self) -> Tensor:
        """Return what is added, [O, I]."""
        return (self.left_OR * self.scaling) @ self.right_RI


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter that was read."""

    path: Path
    config: LoraConfig
    pairs: dict[str, LoraPair]
    """By the name of the linear."""
    replaced: dict[str, Tensor]
    """Parameters that were trained whole, in their stored type, by name."""
    sha256: str
    """Of the file of weights."""
    notes: tuple[str, ...]


def read_adapter(folder: str | Path) -> LoraAdapter:
    """Read an adapter; every one of its tensors has a use, or is named in `notes`.

    Raises:
        CheckpointError: missing, pickled, damaged, or tensors that contradict the configuration.
        UnsupportedModelError: sound, but of a kind that is not merged.
    """
    path = Path(folder).expanduser()
    file = _weight_file(path)
    config = LoraConfig.of(read_json(path / CONFIG, "Give a folder that PEFT wrote."), str(path / CONFIG))
    tensors = _read(file)
    copies = [name for name in tensors if name.endswith(".base_layer.weight")]
    pairs = _pairs(file, config, tensors)
    replaced = {}
    for name in tensors:
        if ".lora_" not in name and name not in copies:
            parameter = _parameter(file, config, name)
            replaced[parameter] = tensors[name]
    if not pairs and not replaced:
        raise CheckpointError(f"{file}: expected lora_A and lora_B of some linear, found nothing to merge.")
    notes = [*_copies_left_out(copies), *config.not_found(pairs, replaced)]
    return LoraAdapter(path, config, pairs, replaced, _sha256(file), tuple(notes))


def _weight_file(path: Path) -> Path:
    if path.is_file():
        raise CheckpointError(f"{path}: expected the folder of an adapter. Give the folder: {path.parent}")
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: expected a folder with {CONFIG} and {WEIGHTS}; no such folder exists."
        )
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if (path / PICKLED_WEIGHTS).is_file():
        raise CheckpointError(
            f"{path}: expected {WEIGHTS}, got {PICKLED_WEIGHTS}, which is pickled and refused: unpickling executes "
            "whatever code the file contains. If you trust it, load the adapter with PEFT once and call "
            "save_pretrained(..., safe_serialization=True)."
        )
    raise CheckpointError(
        f"{path}: expected {WEIGHTS}, found none. Give a folder that PEFT's save_pretrained wrote."
    )


def _read(file: Path) -> dict[str, Tensor]:
    """Return the tensors by the names that the model has, PEFT's prefix taken off."""
    wrong = {name: each.dtype for name, each in read_header(file).items() if each.dtype not in FLOATS}
    if wrong:
        name, dtype = next(iter(wrong.items()))
        raise UnsupportedModelError(f"{file}, {name}: expected one of {', '.join(FLOATS)}, got {dtype}.")
    tensors = {}
    with safe_open(file, "pt") as content:
        for name in content.keys():  # noqa: SIM118 - no mapping
            if not name.startswith(PREFIX):
                raise CheckpointError(
                    f"{file}: expected names that begin with {PREFIX}, got {name:.120}. Save the adapter with PEFT."
                )
            tensors[name.removeprefix(PREFIX)] = content.get_tensor(name)
    for name, tensor in tensors.items():
        if reason := next((why for part, why in REFUSED.items() if part in name), None):
            raise UnsupportedModelError(f"{file}, {name}: {reason}. Train an adapter of linears without it.")
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{file}, {name}: expected numbers, got NaN or infinity: it is damaged.")
    return tensors


def _pairs(file: Path, config: LoraConfig, tensors: Mapping[str, Tensor]) -> dict[str, LoraPair]:
    pairs = {}
    for name in tensors:
        if ".lora_" not in name:
            continue
        match = re.fullmatch(r"(.+)\.lora_([AB])\.weight", name)
        if match is None:
            raise UnsupportedModelError(
                f"{file}, {name}: expected MODULE.lora_A.weight or .lora_B.weight. It is not known what this means."
            )
        module, factor = match.groups()
        other = f"{module}.lora_{'B' if factor == 'A' else 'A'}.weight"
        if other not in tensors:
            raise CheckpointError(f"{file}: {name} is there, and {other} is not. The file is not complete.")
        if factor == "A":
            pairs[module] = _pair(file, module, config, tensors[other], tensors[name])
    return pairs


def _pair(file: Path, module: str, config: LoraConfig, left: Tensor, right: Tensor) -> LoraPair:
    rank = config.rank(module)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != rank or right.shape[0] != rank:
        raise CheckpointError(
            f"{file}, {module}: expected lora_A [{rank}, I] and lora_B [O, {rank}], by the rank in {CONFIG}, got "
            f"{list(right.shape)} and {list(left.shape)}."
        )
    return LoraPair(left.float(), right.float(), config.scaling(module))


def _parameter(file: Path, config: LoraConfig, name: str) -> str:
    """Return the name of the parameter that a tensor takes the place of."""
    plain = name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")
    whole = any(belongs(plain.rpartition(".")[0], module, inside=True) for module in config.modules_to_save)
    if whole or (plain.endswith(".bias") and config.bias != "none"):
        return plain
    raise UnsupportedModelError(
        f"{file}, {name}: neither of an adapter nor of modules_to_save or bias in {CONFIG}. It is not known what this "
        "means."
    )


def _copies_left_out(copies: list[str]) -> list[str]:
    """PEFT stores the weights below an adapter of an embedding or a head, whether they changed or not."""
    if not copies:
        return []
    names = ", ".join(name.removesuffix(".base_layer.weight") for name in copies)
    return [f"LEFT OUT: the copy of the base model's own weights of {names} that the adapter brings"]


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
