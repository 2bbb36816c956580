"""The manifest: `gossamer.json` beside the weights of a compressed folder.

It declares the format of every packed tensor, and records where the model comes from, what was done to it, what was
observed on the way and what was measured afterwards. `config.json` carries the declarations a second time, because
transformers hands a quantizer nothing else; the two are written from one value.
"""

import json
import logging
from pathlib import Path
from typing import Any

from gossamer.errors import CheckpointError
from gossamer.files import write_json

log = logging.getLogger(__name__)

MANIFEST_NAME = "gossamer.json"
FORMAT_VERSION = 1


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a compressed folder.

    Raises:
        CheckpointError: there is none, it is not JSON, or it was written by a newer version.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {MANIFEST_NAME} here. Expected a folder written by `gossamer compress`."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}). Compress the model again.") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version!r}, but this version of Gossamer reads {FORMAT_VERSION}. "
            f"Install the version of Gossamer that wrote the folder."
        )
    return manifest


def add_measurement(folder: str | Path, name: str, values: dict[str, Any]) -> None:
    """Store measured `values` under `measured.NAME` of the manifest, atomically."""
    manifest = read_manifest(folder)
    measured = manifest.get("measured")
    manifest["measured"] = {**(measured if isinstance(measured, dict) else {}), name: values}
    write_json(Path(folder) / MANIFEST_NAME, manifest)


def remember(model: str | Path, name: str, values: dict[str, Any]) -> None:
    """Keep what was measured in the manifest of a compressed folder, for the report; of other models nothing.

    A folder that cannot be written to is left as it is, with a warning in the log: the figures are not lost.
    """
    if (Path(model) / MANIFEST_NAME).is_file():
        try:
            add_measurement(model, name, values)
        except OSError as error:
            log.warning("%s: the figures could not be kept in %s (%s)", model, MANIFEST_NAME, error.strerror)
