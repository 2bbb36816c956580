"""Write a compressed model for other tools: the weights unpacked, zeros as zeros, in an ordinary folder."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossamer.checkpoint.manifest import MANIFEST_NAME, read_manifest
from gossamer.checkpoint.source import Source, open_model
from gossamer.checkpoint.write.adapter import ADAPTER, write_adapter
from gossamer.checkpoint.write.side_files import copy_side_files
from gossamer.checkpoint.write.writer import FolderWriter, check_target, disk_errors
from gossamer.errors import UsageError
from gossamer.formats.factors import Factors
from gossamer.formats.low_rank import LowRankWeight
from gossamer.layers.packed_module import PackedModule

FORMATS = ("dense", "peft")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export(
    model: str | Path,
    out: str | Path,
    *,
    format: str = "dense",
    dtype: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Write `model` as a plain safetensors folder, which every tool loads.

    Args:
        model: a folder that Gossamer compressed (or any model that it reads: a GGUF file, for example).
        out: the folder to write.
        format: "dense"; or "peft": low-rank parts as a LoRA adapter in the folder `adapter` inside, all else dense.
        dtype: float32 keeps the values exactly; bfloat16 and float16 round them (zeros stay zeros).

    Raises:
        UsageError: unknown format or dtype, no low-rank part for "peft", or `out` exists. CheckpointError: `model`
            cannot be read.
    """
    if format not in FORMATS:
        raise UsageError(f"format '{format}': expected one of {', '.join(FORMATS)}.")
    if dtype not in DTYPES:
        raise UsageError(f"dtype '{dtype}': expected one of {', '.join(DTYPES)}.")
    out = Path(out)
    check_target(out, overwrite)
    source = open_model(model)
    check_target(out, overwrite, source.reader.weight_files)
    declared = source.config.to_dict().get("quantization_config")
    if format == "peft" and not _has_low_rank(declared):
        raise UsageError(
            f"{model}: expected a folder with low-rank parts, got one without. Use the format dense."
        )
    with FolderWriter(out, overwrite) as writer:
        factors = _write_weights(source, writer, dtype, apart=format == "peft")
        with disk_errors(writer.out):
            copy_side_files(source, writer.folder)
            if factors:
                write_adapter(writer.folder / ADAPTER, factors, source.architecture, out.name, DTYPES[dtype])
        if source.kind == "gossamer":
            record = {key: read_manifest(source.path).get(key) for key in ("parent", "recipe", "calibration")}
            writer.add_json("sparsity.json", {"written_from": MANIFEST_NAME, **record})
        writer.add_json("config.json", dense_config(source, dtype))
        writer.finish()
        return writer.commit()


def _write_weights(source: Source, writer: FolderWriter, dtype: str, apart: bool) -> dict[str, Factors]:
    """Write every tensor dense; return the low-rank parts by module, which are left out of the weights if `apart`."""
    loaded = source.model if source.kind == "gossamer" else source.load_dense(DTYPES[dtype])
    tied = {copy for copy, _original in source.architecture.tied}
    held: set[str] = set()
    factors: dict[str, Factors] = {}
    for name, module in loaded.named_modules(remove_duplicate=False):  # T5: one embedding, three names
        if not isinstance(module, PackedModule) or module.meta is None:
            continue
        held |= {f"{name}.{key}" for key in module.packed_tensors()}
        if f"{name}.weight" in tied:
            continue
        packed = module.packed
        weight_OI = packed.unpack()
        if apart and isinstance(packed, LowRankWeight):
            factors[name], residual = packed.factors(), packed.residual
            weight_OI = torch.zeros_like(weight_OI) if residual is None else residual.unpack()
        values = source.architecture.matrix(name).as_stored(weight_OI)
        writer.add({f"{name}.weight": _as_dtype(name, values, dtype)})
    for name, tensor in loaded.state_dict().items():
        if name not in held and name not in tied and name not in writer.tensor_bytes:
            writer.add({name: _as_dtype(name, tensor, dtype) if tensor.is_floating_point() else tensor})
    return factors


def dense_config(source: Source, dtype: str) -> dict[str, Any]:
    """Return the config.json of a dense model whose weights are stored in `dtype`."""
    config = source.config.to_dict()
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    config |= {"dtype": dtype, "architectures": [source.auto_class_name]}
    return dict(json.loads(json.dumps(config, default=str)))


def _has_low_rank(declared: object) -> bool:
    modules = declared.get("modules", {}) if isinstance(declared, dict) else {}
    return any(meta.get("format") == LowRankWeight.format for meta in modules.values())


def _as_dtype(name: str, values: Tensor, dtype: str) -> Tensor:
    """Convert values; UsageError where the type cannot hold one of them."""
    converted = values.to(DTYPES[dtype])
    if not bool(torch.isfinite(converted).all()):
        raise UsageError(
            f"dtype '{dtype}': expected a type that holds the values of {name}, got NaN or infinity in it. "
            "Choose bfloat16 or float32; if these give the same, the model is damaged."
        )
    return converted
