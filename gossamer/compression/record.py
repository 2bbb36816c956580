"""What a run writes about itself: the contents of `gossamer.json`, but for its time and memory."""

import datetime
from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING, Any

import torch
import transformers

from gossamer.checkpoint.manifest import FORMAT_VERSION
from gossamer.checkpoint.sizes import by_part, parent_bytes
from gossamer.checkpoint.untouched import untouched
from gossamer.version import __version__

if TYPE_CHECKING:
    from gossamer.compression.loop import Run


def manifest_of(run: "Run", reload_difference: float) -> dict[str, Any]:
    """Return the manifest of a run whose tensors are all written."""
    bytes_by_name = {report.name: report.bytes for report in run.reports}
    dense = untouched(run.parts)
    zeros = sum(report.sparsity * prod(report.shape) for report in run.reports if report.block is not None)
    return {
        "format_version": FORMAT_VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gossamer_version": __version__,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "parent": {
            "name": run.source.path.name,
            "sha256": run.source.fingerprint(),
            "size_bytes": run.source.size_bytes,
            "bf16_bytes": 2 * run.source.num_parameters,
        },
        "recipe": run.recipe.to_dict(),
        "recipe_yaml": run.recipe.to_yaml(),
        "calibration": run.calibration,
        "tensors": {name: {"meta": meta, "bytes": bytes_by_name[name]} for name, meta in run.packed.items()},
        "tied": run.tied,
        "layers": [asdict(report) for report in run.reports],
        "blocks": run.block_reports,
        "untouched": dense.to_dict(),
        "block_sparsity": zeros / max(dense.block_weights, 1),
        "size": _sizes(run),
        "reload_max_difference": reload_difference,
        "notes": [*dense.notes, *run.notes],
        "measured": {},
    }


def _sizes(run: "Run") -> dict[str, Any]:
    files = sum(file.stat().st_size for file in run.writer.folder.rglob("*") if file.is_file())
    return {
        "weights_bytes": sum(run.writer.tensor_bytes.values()),
        "total_bytes": files,
        "by_part": by_part(run.writer.tensor_bytes, run.parts.norms),
        "parent_by_part": parent_bytes(run.source.reader.skeleton, run.parts.norms),
    }
