"""Turn token windows into the keyword arguments of a model's forward call.

N samples, L tokens in a sample.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

TOKENS_PER_BATCH = 2048


def position_limit(model: PreTrainedModel) -> int | None:
    """The longest input that the model has positions for, None if there is no limit."""
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "max_target_positions", None)
    if limit is None:
        return None
    offset = next(
        (
            module.padding_idx + 1  # RoBERTa counts positions from padding_idx + 1
            for name, module in model.named_modules()
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
        ),
        0,
    )
    return int(limit) - offset


def model_batches(model: PreTrainedModel, ids_NL: Tensor, notes: list[str]) -> list[dict[str, Tensor]]:
    """Return batches of about 2048 tokens, the first of one sample. Encoder-decoders see the text on both sides.

    A model that listens (Whisper) is given seeded noise for its encoder, and `notes` says so.
    """
    per_batch = max(1, TOKENS_PER_BATCH // ids_NL.shape[1])
    batches: list[dict[str, Tensor]] = []
    generator = torch.Generator().manual_seed(0)
    for ids in (ids_NL[:1], *ids_NL[1:].split(per_batch)):
        if not len(ids):
            continue
        if model.main_input_name == "input_features":
            config = model.config
            shape = (len(ids), config.num_mel_bins, 2 * config.max_source_positions)
            features = torch.randn(shape, generator=generator, device=generator.device).to(ids.device)
            batches.append({"input_features": features, "decoder_input_ids": ids})
        elif model.config.is_encoder_decoder:
            batches.append({"input_ids": ids, "decoder_input_ids": ids})
        else:
            batches.append({"input_ids": ids})
    if model.main_input_name == "input_features":
        notes.append("the encoder was calibrated on noise, since calibration text has no sound")
    return batches
