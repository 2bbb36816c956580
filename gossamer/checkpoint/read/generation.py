"""What a model folder says of how its text is written: generation_config.json, then config.json as it is written.

A field that neither file has is absent here: the defaults of transformers' configuration classes (Llama's
`eos_token_id` of 2, say) are guesses about other models, and are not taken for this one's word.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from gossamer.checkpoint.read.folder import read_json
from gossamer.errors import CheckpointError

GENERATION_FILE = "generation_config.json"
TOKEN_IDS = ("eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id")
"""What config.json is asked for when generation_config.json does not say it."""

ABOUT_RUNNING = {
    "transformers_version",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
}
"""Names of generation_config.json that mean something of their own in config.json."""


def read_generation(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the folder says of generation, field by field; `eos_token_id` is a list of whole numbers.

    Without generation_config.json, old folders keep its fields in config.json.

    Args:
        folder: where generation_config.json may be. config: the contents of config.json.

    Raises:
        CheckpointError: generation_config.json is no JSON object, or `eos_token_id` no token id or list of them.
    """
    file = folder / GENERATION_FILE
    if file.is_file():
        said = read_json(file, "")
    else:
        known = set(vars(transformers.GenerationConfig())) - ABOUT_RUNNING
        said = {name: value for name, value in config.items() if name in known}
    for name in TOKEN_IDS:
        if said.get(name) is None:
            said[name] = _written(config, name)
    said["eos_token_id"] = token_ids(said["eos_token_id"], f"{folder}: eos_token_id")
    return {name: value for name, value in said.items() if value is not None and value != []}


def _written(config: Mapping[str, Any], name: str) -> Any:
    """The field of config.json, or of the part of it that describes the text model."""
    text = config.get("text_config")
    parts = (config, text if isinstance(text, dict) else {})
    return next((part[name] for part in parts if part.get(name) is not None), None)


def token_ids(value: object, where: str) -> list[int]:
    """Return a token id, a list of them or None as a list; CheckpointError for anything else."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(each) is int and 0 <= each < 2**31 for each in ids):
        raise CheckpointError(f"{where}: expected a token id, a list of them or null, got {value!r:.80}.")
    return sorted(set(ids))
