"""Models named by a hub id ("owner/name"): fetched with huggingface_hub, or from its cache when offline."""

import re
from pathlib import Path
from typing import Any

from gossamer.errors import CheckpointError

PATTERNS = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
]
"""What is fetched: weights as safetensors only, never pickles or code."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_hub_id(name: str) -> bool:
    """Tell whether `name` could be a hub id: "name" or "owner/name"."""
    return _HUB_ID.fullmatch(name) is not None and len(name) <= 96


def fetch(hub_id: str) -> Path:
    """Return the local folder of a hub model, downloading what is missing; CheckpointError if that fails."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    options: dict[str, Any] = {"repo_id": hub_id, "allow_patterns": PATTERNS, "ignore_patterns": ["*/*"]}
    silenced = are_progress_bars_disabled()  # with the bars of reading, which our own take the place of
    enable_progress_bars()
    try:
        return Path(huggingface_hub.snapshot_download(**options))
    except Exception as error:  # httpx, OSError, hub errors: the cache may still serve
        try:
            return Path(huggingface_hub.snapshot_download(**options, local_files_only=True))
        except (LocalEntryNotFoundError, OSError, ValueError):
            reason = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
            )
            raise CheckpointError(
                f"{hub_id!r}: expected an existing path or a model on the Hugging Face hub. No such path "
                "exists, the "
                f"hub cannot be reached or does not have it ({reason:.200}), and no copy is cached. "
                "Check the spelling, or download the folder elsewhere and give its path."
            ) from None
    finally:
        if silenced:
            disable_progress_bars()
