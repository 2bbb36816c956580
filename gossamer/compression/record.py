"""What a run writes at its end: the other files of the folder, the check of loading it, and `gossamer.json`."""

import datetime
import platform
from dataclasses import asdict
from math import prod
from typing import Any

import torch
import transformers
from torch import Tensor

from gossamer.checkpoint.manifest import FORMAT_VERSION
from gossamer.checkpoint.plugin.quantizer import quantization_config
from gossamer.checkpoint.sizes import by_part, parent_bytes
from gossamer.checkpoint.untouched import untouched
from gossamer.checkpoint.write.side_files import copy_side_files
from gossamer.checkpoint.write.writer import disk_errors
from gossamer.compression.job import Job
from gossamer.compression.outside import modules_outside_blocks
from gossamer.compression.phase_clock import CHECK, OTHER, WRITE
from gossamer.compression.state import RunState
from gossamer.evaluation.reload_check import reload_difference
from gossamer.evaluation.speed.memory import PeakMemory
from gossamer.version import __version__


def finish(job: Job, state: RunState, parent_config: dict[str, Any], outputs: Tensor) -> dict[str, Any]:
    """Write the other files, load the folder again as a check, and return the manifest.

    `parent_config` is the parent's config.json; `outputs` are those of the compressed model for the first batch.
    RunError if the folder gives others.
    """
    config = {**parent_config, "architectures": [type(job.model).__name__], "dtype": "float32"}
    config["quantization_config"] = quantization_config(state.packed, state.tied)
    config.pop("_name_or_path", None)
    with job.clock.phase(WRITE):
        with disk_errors(job.writer.out):
            copy_side_files(job.source, job.writer.folder)
        job.writer.add_json("config.json", config)
        job.writer.finish()
    job.progress(CHECK, 0, 1)
    batch = {key: value.cpu() for key, value in job.runner.batches[0].items()}
    _let_go(job)
    with job.clock.phase(CHECK):
        difference = reload_difference(
            job.writer.folder, type(job.model), job.architecture.blocks, batch, outputs.cpu()
        )
    job.progress(CHECK, 1, 1)
    return manifest_of(job, state, difference)


def _let_go(job: Job) -> None:
    """Give back the memory of what is no longer needed: what the blocks returned, and what lies around them."""
    job.runner.forget()
    if job.dense is not None:
        job.dense.forget()
        for name in modules_outside_blocks(job.dense.model, job.architecture.blocks):
            job.dense.model.get_submodule(name).to("meta")
    for name in modules_outside_blocks(job.model, job.architecture.blocks):
        job.source.release(name)


def manifest_of(job: Job, state: RunState, reload_difference: float) -> dict[str, Any]:
    """Return the manifest of a run whose tensors are all written."""
    source = job.source
    dense = untouched(job.architecture)
    zeros = sum(report.sparsity * prod(report.shape) for report in state.reports if report.block is not None)
    bytes_by_name = {report.name: report.bytes for report in state.reports}
    return {
        "format_version": FORMAT_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gossamer_version": __version__,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parent": {
            "name": source.path.name,
            "sha256": source.fingerprint(),
            "size_bytes": source.size_bytes,
            "bf16_bytes": 2 * source.num_parameters,
        },
        "recipe": job.recipe.to_dict(),
        "recipe_yaml": job.recipe.to_yaml(),
        "calibration": state.calibration,
        "tensors": {
            name: {"meta": meta, "bytes": bytes_by_name[name]} for name, meta in state.packed.items()
        },
        "tied": state.tied,
        "layers": [asdict(report) for report in state.reports],
        "blocks": [block.to_dict() for block in state.blocks],
        "untouched": dense.to_dict(),
        "block_sparsity": zeros / max(dense.block_weights, 1),
        "size": _sizes(job),
        "reload_max_difference": reload_difference,
        "notes": [*dense.notes, *state.notes],
        "measured": {},
    }


def effort(job: Job, state: RunState, memory: PeakMemory) -> dict[str, Any]:
    """Return what the run took, for the manifest."""
    seconds, phases = state.seconds(), job.clock.seconds()
    return {
        "seconds": seconds,
        "seconds_by_phase": {**phases, OTHER: max(seconds - sum(phases.values()), 0.0)},
        "minutes_given": None if job.time.total is None else job.time.total / 60,
        "resumed": state.resumed,
        "peak_memory_bytes": memory.peak_anonymous_bytes,
        "peak_resident_bytes": memory.peak_resident_bytes,
        "processes": job.processes.count,
        "threads": torch.get_num_threads(),
        "device": str(job.device),
        "cpu": platform.processor() or platform.machine(),
    }


def _sizes(job: Job) -> dict[str, Any]:
    writer, norms = job.writer, job.architecture.norms
    files = sum(file.stat().st_size for file in writer.folder.rglob("*") if file.is_file())
    return {
        "weights_bytes": sum(writer.tensor_bytes.values()),
        "total_bytes": files,
        "by_part": by_part(writer.tensor_bytes, norms),
        "parent_by_part": parent_bytes(job.source.reader.skeleton, norms),
    }
