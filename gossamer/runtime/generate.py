"""Write text with a model, piece by piece: settings mean the same on the native engine and with transformers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from gossamer.checkpoint.loading import load_opened
from gossamer.checkpoint.source import Source, open_model
from gossamer.data.tokens import check_ids
from gossamer.errors import UsageError
from gossamer.runtime.choose import DEFAULT_ACTIVATIONS, choose_engine
from gossamer.runtime.engine import Engine
from gossamer.runtime.settings import Asked, settle
from gossamer.runtime.text import encode, stream
from gossamer.runtime.torch_engine import TorchEngine


@dataclass(frozen=True, slots=True)
class Writing:
    """A text that is being written, and what writes it."""

    engine: str
    activations: str
    notes: tuple[str, ...]
    """What is not as the model or the caller says; a line each."""
    pieces: Iterator[str]


def write(
    path: str | Path,
    prompt: str,
    *,
    engine: str = "auto",
    activations: str | None = None,
    raw: bool = False,
    asked: Asked | None = None,
) -> Writing:
    """Continue `prompt` with a model; with a chat template the prompt is a user's message.

    Args:
        path: a compressed folder, a dense one, a GGUF file or a hub id.
        engine: "native", "torch", or "auto": native where the family has a plan.
        activations: "float" or "int8"; default: int8 on the native engine, else float.
        raw: without the chat template.
        asked: length and sampling; what is left open is as the model says.

    Raises:
        UsageError: no text generator, an empty or too long prompt, or settings out of range.
        CheckpointError: a model that cannot be read, a chat template or settings in it that cannot be used.
        RunError: while the pieces come: the model fails.
    """
    engine = choose_engine(path, engine)
    activations = activations or DEFAULT_ACTIVATIONS[engine]
    source = open_model(path)
    tokenizer, said, text = source.tokenizer(), source.generation(), source.config.get_text_config()
    skeleton = source.reader.skeleton
    if tokenizer is None or not skeleton.can_generate() or skeleton.main_input_name != "input_ids":
        lacking = "" if tokenizer is not None else ": it has no tokenizer"
        raise UsageError(f"{path}: {source.auto_class_name} does not generate text from a prompt{lacking}.")
    ids = encode(tokenizer, prompt, raw=raw, add_start=source.kind == "gguf", where=str(path))
    check_ids(torch.tensor(ids, dtype=torch.int64), text.vocab_size, tokenizer, f"{path}, the prompt")
    settings = settle(
        said,
        asked or Asked(),
        where=str(path),
        prompt_tokens=len(ids),
        positions=getattr(text, "max_position_embeddings", None),
        tokenizer_eos=tokenizer.eos_token_id,
        encoder_decoder=bool(source.config.is_encoder_decoder),
    )
    writer = _writer(source, path, engine, activations)
    tokens = writer.generate(
        ids, settings.max_tokens, sampling=settings.sampling, stops=sorted(settings.stops)
    )
    pieces = stream(tokenizer, tokens, settings.stops, settings.stop_strings)
    notes = settings.notes + (writer.notes if isinstance(writer, Engine) else ())
    return Writing(engine, activations, notes, pieces)


def _writer(source: Source, path: str | Path, engine: str, activations: str) -> Engine | TorchEngine:
    if engine == "native":
        return Engine.open(path, activations=activations)
    return TorchEngine(load_opened(source, activations=activations).model, str(path), source.generation())
