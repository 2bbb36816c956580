"""Write a model rotated: other weights, the same function, with outliers spread before the weights are rounded.

One tensor at a time is in memory, and what the writer has not flushed.

O output features, I input features.
"""

from pathlib import Path

import torch
from torch import Tensor

from gossamer.checkpoint.read.mapped import give_back_pages
from gossamer.checkpoint.source import Source, open_model
from gossamer.checkpoint.write.export import DTYPES, dense_config
from gossamer.checkpoint.write.side_files import copy_side_files
from gossamer.checkpoint.write.writer import FolderWriter, check_target, disk_errors
from gossamer.errors import CheckpointError, UnsupportedModelError, UsageError
from gossamer.progress import Progress, silent
from gossamer.rotation.families import WHAT, RotationPlan, plan_rotation
from gossamer.rotation.result import Rotated, RotatedParent, RotationMatrix

RECORD = "rotation.json"
LARGEST_SEED = 2**63 - 1


def rotate(
    model: str | Path,
    out: str | Path,
    *,
    what: str = "values",
    untie: bool = False,
    seed: int = 0,
    dtype: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Rotated:
    """Write a dense model that computes the same with rotated weights, as an ordinary safetensors folder.

    Args:
        model: a safetensors folder, a GGUF file or a hub id.
        out: the folder to write.
        what: "values" (in each attention head), "residual" (the stream between the blocks), or "all": both.
        untie: store a head apart that is tied to the embeddings, where the residual stream is rotated.
        seed: which signs the Hadamard matrices get, 0 to 2^63 - 1.
        dtype: float32, bfloat16 or float16; None: as the parent is stored, float16 for a GGUF file.
        progress: told how many tensors are written.

    Returns:
        The folder, and what was done.

    Raises:
        UsageError: an unknown setting, `out` exists, or the head is tied and `untie` is false.
        CheckpointError: `model` cannot be read, or holds numbers that are not finite in `dtype`.
        UnsupportedModelError: a family, or a compressed folder, whose weights cannot be rotated so.

    Source: QuaRot, arXiv 2404.00456, stages 1a and 1c; SpinQuant, arXiv 2405.16406, R1 and R2.
    """
    _check_settings(what, seed, dtype)
    out = Path(out)
    check_target(out, overwrite)
    source = _open_dense(model)
    check_target(out, overwrite, source.reader.weight_files)
    plan = plan_rotation(source, what, seed, untie)
    dtype = dtype or _stored_dtype(source)
    with FolderWriter(out, overwrite) as writer:
        _write_weights(source, plan, DTYPES[dtype], writer, progress)
        result = Rotated(
            folder=writer.out,
            parent=RotatedParent(str(source.path), source.fingerprint()),
            what=what,
            seed=seed,
            dtype=dtype,
            values=RotationMatrix.of(plan.values),
            residual=RotationMatrix.of(plan.residual),
            weights_bytes=sum(writer.tensor_bytes.values()),
            untied_bytes=sum(writer.tensor_bytes[name] for name in plan.unties),
        )
        with disk_errors(writer.out):
            copy_side_files(source, writer.folder)
        writer.add_json(RECORD, result.record())
        untied = {"tie_word_embeddings": False} if plan.unties else {}
        writer.add_json("config.json", dense_config(source, dtype) | untied)
        writer.finish()
        writer.commit()
        return result


def _check_settings(what: str, seed: int, dtype: str | None) -> None:
    if what not in WHAT:
        raise UsageError(f"what '{what}': expected one of {', '.join(WHAT)}.")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"dtype '{dtype}': expected one of {', '.join(DTYPES)}.")
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed {seed}: expected 0 to 2^63 - 1.")


def _open_dense(model: str | Path) -> Source:
    source = open_model(model)
    if source.kind == "gossamer":
        raise UnsupportedModelError(
            f"{model}: expected a dense model, got a compressed one. Rotate its parent, then compress that."
        )
    return source


def _stored_dtype(source: Source) -> str:
    stored = torch.float16 if source.kind == "gguf" else source.model.dtype
    return next((name for name, dtype in DTYPES.items() if dtype == stored), "float32")


def _write_weights(
    source: Source, plan: RotationPlan, dtype: torch.dtype, writer: FolderWriter, progress: Progress
) -> None:
    tied = {copy for copy, _original in source.architecture.tied} - set(plan.unties)
    parameters = source.reader.skeleton.named_parameters(remove_duplicate=False)
    names = [name for name, _ in parameters if name not in tied]
    for done, name in enumerate(names):
        progress("tensors", done, len(names))
        values = _rotated(source, plan, name).to(dtype)
        if not bool(torch.isfinite(values).all()):
            raise CheckpointError(
                f"{source.path}: {name} holds NaN or infinite values in {dtype}, finite ones were expected. "
                "Check the model, or give a dtype of larger range."
            )
        writer.add({name: values})
    progress("tensors", len(names), len(names))


@torch.no_grad()
def _rotated(source: Source, plan: RotationPlan, name: str) -> Tensor:
    """Return a parameter of the rotated model in float32."""
    module, _, leaf = name.rpartition(".")
    values = _read(source, name)
    if module in plan.norms:
        return torch.ones_like(values)
    turn = plan.turns.get(module)
    if turn is None:
        return values
    if leaf == "bias":
        turn.apply_to_outputs(values)
        return values
    matrix = source.architecture.matrix(module)
    scale_I = None if turn.norm is None else _read(source, f"{turn.norm}.weight")
    weight_OI = matrix.from_stored(values)
    turn.apply(weight_OI, scale_I)
    return matrix.as_stored(weight_OI)


def _read(source: Source, name: str) -> Tensor:
    """Return a parameter of the parent in float32, a copy of its own."""
    mapped = source.model.get_parameter(name)
    values = source.reader.parameter(dict(source.architecture.tied).get(name, name), mapped)
    give_back_pages([mapped])
    return values
