"""A prompt for speed measurements when none is given: random tokens, the same for equal vocabularies."""

import torch
from torch import Tensor

from gossamer.evaluation.speed.decode import Runner


def random_prompt(model: Runner, length: int, seed: int = 0) -> Tensor:
    """Return ids_1T, `length` token ids drawn evenly from the model's vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.get_text_config().vocab_size, (1, length), generator=generator)
