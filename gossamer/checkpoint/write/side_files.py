"""Carry over what belongs to a model besides its weights: tokenizer, generation settings, pooling, licence."""

import json
import shutil
from pathlib import Path

from gossamer.checkpoint.read.folder import SIDE_FILES, read_json
from gossamer.checkpoint.read.generation import GENERATION_FILE
from gossamer.checkpoint.source import Source

_NOT_CARRIED = ("config.json", "gossamer.json", "data_config.json")
"""Written anew, or about the parent's training."""
_ALSO = ("LICENSE*", "NOTICE*", "[0-9]_*/config.json")
"""The last: how sentence-transformers keeps its pooling."""


def copy_side_files(source: Source, folder: Path) -> None:
    """Write tokenizer and settings of `source` into `folder`. Never code, never weights."""
    if source.kind == "gguf":
        _write_tokenizer(source, folder)
        _write_generation(source, folder)
        return
    for pattern in (*SIDE_FILES, *_ALSO):
        for file in sorted(source.path.glob(pattern)):
            relative = file.relative_to(source.path)
            if file.name in _NOT_CARRIED and len(relative.parts) == 1:
                continue
            if file.is_file() and not file.name.endswith(".index.json"):
                (folder / relative).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, folder / relative)
    _write_generation(source, folder)


def _write_generation(source: Source, folder: Path) -> None:
    """Write how the model's text ends into generation_config.json, unless the one that was carried says it.

    The config.json that is written has all defaults of its class in it: it could not be told any more what was said.
    """
    file = folder / GENERATION_FILE
    if not source.reader.skeleton.can_generate():
        return
    if file.is_file() and read_json(file, "").get("eos_token_id") is not None:
        return
    said, tokenizer = source.generation(), source.tokenizer()
    if "eos_token_id" not in said and tokenizer is not None and tokenizer.eos_token_id is not None:
        said["eos_token_id"] = tokenizer.eos_token_id
    if said:
        file.write_text(json.dumps(said, indent=2), "utf-8")


def _write_tokenizer(source: Source, folder: Path) -> None:
    """Save the tokenizer of a GGUF file; its table is written without the indentation that doubles its size."""
    tokenizer = source.tokenizer()
    if tokenizer is None:
        return
    tokenizer.save_pretrained(folder)
    table = folder / "tokenizer.json"
    if table.is_file():
        compact = json.dumps(json.loads(table.read_text("utf-8")), ensure_ascii=False, separators=(",", ":"))
        table.write_text(compact, "utf-8")
