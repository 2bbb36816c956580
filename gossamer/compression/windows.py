"""The text that a run shows to the model, as windows of tokens.

Every window opens with what the tokenizer puts in front of a text (its start token); an encoder's stand in its
frame [CLS] ... [SEP].

N samples, L tokens in a sample.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gossamer.calibration.batches import position_limit
from gossamer.checkpoint.source import Source
from gossamer.data.deduplicate import deduplicate
from gossamer.data.samples import fingerprint, sample, self_samples
from gossamer.data.sources import read_documents
from gossamer.data.tokens import check_ids, tokenize
from gossamer.errors import UsageError
from gossamer.progress import Progress
from gossamer.recipe.recipe import Recipe
from gossamer.runtime.memory import available_bytes

CalibrationText = tuple[Tensor, dict[str, Any]]
"""ids_NL, and the record of where they come from."""
SELF_WRITTEN = "written by the model itself"


def with_calibration(recipe: Recipe, samples: int | None, length: int | None, seed: int | None) -> Recipe:
    """Return the recipe with other calibration settings; None keeps the recipe's."""
    given = {"samples": samples, "length": length, "seed": seed}
    update = {key: value for key, value in given.items() if value is not None}
    for key, smallest in (("samples", 1), ("length", 8)):
        if update.get(key, smallest) < smallest:
            raise UsageError(f"--{key} {update[key]}: expected at least {smallest}.")
    calibration = recipe.calibration.model_copy(update=update)
    return Recipe(recipe.steps, calibration, recipe.skip, recipe.description)


def calibration_samples(
    source: Source, recipe: Recipe, text: str | None, progress: Progress, notes: list[str]
) -> CalibrationText:
    """Return ids_NL to calibrate on, and the record of where they come from."""
    settings = recipe.calibration
    tokenizer = source.tokenizer()
    if tokenizer is None:
        raise UsageError(f"{source.path}: the model has no tokenizer, so no text can be shown to it.")
    progress("reading text", 0, 1)
    if text is None:
        if not source.model.can_generate() or source.model.config.is_encoder_decoder:
            raise UsageError("this model cannot write its own calibration text. Give some with --text.")
        _check_memory(source)
        name = SELF_WRITTEN
        notes.append("calibrated on text that the model wrote itself; real text is better: use --text")
        ids_NL = self_samples(
            source.load_dense(torch.float32), tokenizer, settings.samples, settings.length, settings.seed,
            progress=lambda done, total: progress("writing calibration text", done, total),
        )  # fmt: skip
    else:
        name = Path(text).name
        documents = deduplicate(read_documents(text)).documents
        vocabulary = source.config.get_text_config().vocab_size
        stream = tokenize(documents, tokenizer, name, vocabulary)
        ids_NL = sample(stream, settings.samples, settings.length, settings.seed)
        if not stream.start:
            _frame(ids_NL, tokenizer)
            check_ids(ids_NL, vocabulary, tokenizer, name)
    progress("reading text", 1, 1)
    record = {
        "source": name,
        "fingerprint": fingerprint(name, ids_NL, settings.model_dump()),
        "num_samples": ids_NL.shape[0],
        "length": ids_NL.shape[1],
        "seed": settings.seed,
        "tokens": ids_NL.numel(),
    }
    return ids_NL, record


def _check_memory(source: Source) -> None:
    """To write, a model has to be in memory whole: one that is larger needs a text to be given."""
    needed, free = 4 * source.num_parameters, available_bytes()
    if free is not None and needed > free:
        raise UsageError(
            f"without --text the model writes its own, for which all of it must be in memory: {needed / 1e9:.1f} GB in "
            f"float32, of which {free / 1e9:.1f} GB are free. Give a text with --text."
        )


def _frame(ids_NL: Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    """Put the tokens that an encoder expects at both ends of every window: [CLS] ... [SEP]."""
    if tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None:
        ids_NL[:, 0], ids_NL[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id


def fitting_length(recipe: Recipe, model: PreTrainedModel, length_given: bool, notes: list[str]) -> Recipe:
    """Shorten the recipe's windows to what the model has positions for; refuse if the user asked for more."""
    limit, length = position_limit(model), recipe.calibration.length
    if limit is None or length <= limit:
        return recipe
    if length_given:
        raise UsageError(f"--length {length}: the model has positions for {limit} tokens only.")
    notes.append(f"calibration windows shortened from {length} to the {limit} tokens that the model can take")
    return with_calibration(recipe, None, limit, None)
