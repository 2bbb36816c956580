"""Carry over what belongs to a model besides its weights: tokenizer, generation settings, pooling, licence."""

import json
import shutil
from pathlib import Path

from gossamer.checkpoint.read.folder import SIDE_FILES
from gossamer.checkpoint.source import Source

_NOT_CARRIED = ("config.json", "gossamer.json", "data_config.json")
"""Written anew, or about the parent's training."""
_ALSO = ("LICENSE*", "NOTICE*", "[0-9]_*/config.json")
"""The last: how sentence-transformers keeps its pooling."""


def copy_side_files(source: Source, folder: Path) -> None:
    """Write tokenizer and settings of `source` into `folder`. Never code, never weights."""
    if source.kind == "gguf":
        _write_tokenizer(source, folder)
        if source.model.can_generate():
            source.model.generation_config.save_pretrained(folder)
        return
    for pattern in (*SIDE_FILES, *_ALSO):
        for file in sorted(source.path.glob(pattern)):
            relative = file.relative_to(source.path)
            if file.name in _NOT_CARRIED and len(relative.parts) == 1:
                continue
            if file.is_file() and not file.name.endswith(".index.json"):
                (folder / relative).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, folder / relative)


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
