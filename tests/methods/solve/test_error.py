import numpy as np
import pytest
import torch

from gossamer.methods.solve.error import relative_output_error
from tests.methods.reference import correlated_gram


def test_the_error_is_that_of_the_outputs():
    gram, x = correlated_gram(20)
    rng = np.random.default_rng(1)
    dense, compressed = rng.normal(size=(2, 6, 20))
    expected = np.sum((x @ (dense - compressed).T) ** 2) / np.sum((x @ dense.T) ** 2)
    tensors = [torch.from_numpy(a).float() for a in (dense, compressed, gram)]
    assert relative_output_error(*tensors) == pytest.approx(expected, rel=1e-4)


def test_nothing_changed_is_zero_and_everything_lost_is_one():
    gram = torch.from_numpy(correlated_gram(20)[0]).float()
    weight = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    assert relative_output_error(weight, weight, gram) == 0.0
    assert relative_output_error(weight, torch.zeros(4, 20), gram) == pytest.approx(1.0)
    assert relative_output_error(torch.zeros(4, 20), torch.zeros(4, 20), gram) == 0.0
    assert relative_output_error(torch.zeros(4, 20), weight, gram) == float("inf")
