"""A layer to try methods on."""

import torch
from torch import Tensor

from gossamer.calibration.statistics import Gram
from tests.methods import reference


def weight_and_gram(num_rows: int, num_inputs: int, seed: int = 0) -> tuple[Tensor, Gram]:
    """Return a weight and a Gram statistic, both float32, that the float64 reference sees unchanged."""
    _, x = reference.correlated_gram(num_inputs, seed=seed)
    gram = Gram(num_inputs)
    gram.update(torch.from_numpy(x))
    weight_OI = torch.randn(num_rows, num_inputs, generator=torch.Generator().manual_seed(seed)) * 0.05
    return weight_OI, gram
