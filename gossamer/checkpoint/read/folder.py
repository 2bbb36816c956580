"""What lies in a model folder, checked before transformers loads anything: config, weight files, refusals.

Nothing here executes or unpickles anything. The order of preference is that of transformers:
`model.safetensors`, then the shards of `model.safetensors.index.json`.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.checkpoint.read.safetensors_header import StoredTensor, read_header
from gossamer.errors import CheckpointError, UnsupportedModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""Configuration and tokenizer files: with the weights, what the model takes on disk."""

WRAPPERS = ("_orig_mod.", "module.", "base_model.model.")
"""What torch.compile, DataParallel and peft put before the names of the model that they wrap."""

CONVERT = """    from transformers import AutoModel, AutoTokenizer   # in a sandbox: a pickle may run code
    model = AutoModel.from_pretrained("{folder}", dtype="auto")   # use the class named in config.json
    model.save_pretrained("{folder}-safe")                        # writes model.safetensors
    AutoTokenizer.from_pretrained("{folder}").save_pretrained("{folder}-safe")"""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose config and weight headers have been checked."""

    path: Path
    config: dict[str, Any]
    weight_files: tuple[Path, ...]
    tensors: dict[str, StoredTensor]
    """By the names that the model itself has for them."""
    prefix: str = ""
    """What stands before every name in the files: the wrappers in which the model was saved."""

    @property
    def quant_method(self) -> str | None:
        """The `quant_method` of config.json, None for a dense model."""
        return quant_method(self.config)

    @property
    def side_files(self) -> tuple[Path, ...]:
        """Configuration and tokenizer files at the top of the folder."""
        return tuple(sorted({file for pattern in SIDE_FILES for file in self.path.glob(pattern)}))


def read_folder(path: Path) -> ModelFolder:
    """Check config.json and every weight file's header; raise CheckpointError at the first fault."""
    if not path.is_dir():
        raise CheckpointError(f"{path}: expected a model folder or a .gguf file, got neither.")
    _refuse_ggufs(path)
    config = read_config(path)
    _refuse_adapters(path)
    weight_files, tensors = _read_weights(path)
    prefix = wrapper_prefix(tensors)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return ModelFolder(path, config, weight_files, tensors, prefix)


def wrapper_prefix(names: Collection[str]) -> str:
    """Return the wrappers' names that stand before every one of `names`, "" if there are none."""
    prefix = ""
    while names:
        more = next((each for each in WRAPPERS if all(n.startswith(prefix + each) for n in names)), None)
        if more is None:
            break
        prefix += more
    return prefix


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json as a dictionary with a `model_type`."""
    file = folder / "config.json"
    config = read_json(file, "Every Hugging Face model folder has one: is this the right folder?")
    if not isinstance(config.get("model_type"), str):
        raise UnsupportedModelError(
            f"{file}: expected a string under 'model_type', got {config.get('model_type')!r:.60}. "
            "Gossamer reads transformers models; convert the model to that layout first."
        )
    return config


def read_json(file: Path, when_missing: str) -> dict[str, Any]:
    """Return the JSON object in `file`; CheckpointError if it is missing or anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: expected this file, it does not exist. {when_missing}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: expected JSON, got text that cannot be parsed ({error}). Restore the file."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror}).") from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file}: expected a JSON object, got a {type(content).__name__}. Restore the file."
        )
    return content


def quant_method(config: dict[str, Any]) -> str | None:
    """Return the `quant_method` in a config, None if there is no quantization_config."""
    settings = config.get("quantization_config")
    if settings is None:
        return None
    return str(settings.get("quant_method", "unknown")) if isinstance(settings, dict) else "unknown"


def _read_weights(folder: Path) -> tuple[tuple[Path, ...], dict[str, StoredTensor]]:
    single = folder / SINGLE
    if single.is_file():
        return (single,), read_header(single)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled:
        raise CheckpointError(
            f"{folder}: expected {SINGLE}, got pickled weights ({', '.join(pickled[:3])}), which are "
            "refused: "
            "unpickling executes whatever code the file contains. If you trust the file, convert it once:\n"
            + CONVERT.format(folder=folder)
        )
    raise CheckpointError(
        f"{folder}: expected {SINGLE} or {INDEX}, found no weights. Is the download complete?"
    )


def _read_shards(folder: Path) -> tuple[tuple[Path, ...], dict[str, StoredTensor]]:
    index_file = folder / INDEX
    weight_map = read_json(index_file, "").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(
            f"{index_file}: expected 'weight_map' from tensor to file name, got something else. Restore the "
            "file."
        )
    tensors: dict[str, StoredTensor] = {}
    files = []
    for shard in sorted(set(weight_map.values())):
        file = folder / shard
        if Path(shard).name != shard:
            raise CheckpointError(
                f"{index_file}: expected plain file names, got {shard!r:.120}. Restore the file."
            )
        if not file.is_file():
            raise CheckpointError(
                f"{file}: expected this shard, as {INDEX} says; it is missing. Download it again."
            )
        stored = read_header(file)
        _compare_shard(file, {name for name, where in weight_map.items() if where == shard}, set(stored))
        tensors |= stored
        files.append(file)
    return tuple(files), tensors


def _compare_shard(file: Path, promised: set[str], stored: set[str]) -> None:
    if promised == stored:
        return
    faults = []
    if missing := sorted(promised - stored):
        faults.append(f"lacks {len(missing)} of them ({missing[0]}, ...)")
    if extra := sorted(stored - promised):
        faults.append(f"has {len(extra)} others ({extra[0]}, ...)")
    raise CheckpointError(
        f"{file}: expected the {len(promised)} tensors that {INDEX} assigns to it; it "
        f"{' and '.join(faults)}. "
        "The shards and the index are of different models or versions: download them together."
    )


def _refuse_ggufs(folder: Path) -> None:
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    if ggufs and not (folder / SINGLE).exists() and not (folder / INDEX).exists():
        raise CheckpointError(
            f"{folder}: expected {SINGLE}, got GGUF files. Give the path of one: {folder / ggufs[0]}"
        )


def _refuse_adapters(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise UnsupportedModelError(
            f"{folder}: expected a whole model, got a PEFT adapter (adapter_config.json). "
            "Merge it into its base model first (peft: model.merge_and_unload().save_pretrained(...))."
        )
