"""A prompt for speed measurements when none is given: random tokens, the same for equal vocabularies."""

from typing import Any

import torch
from torch import Tensor


def random_prompt(model: Any, length: int, seed: int = 0) -> Tensor:
    """Return ids_1T, `length` token ids drawn evenly from the model's vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.get_text_config().vocab_size, (1, length), generator=generator)
