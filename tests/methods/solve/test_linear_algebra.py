import numpy as np
import pytest
import torch

from gossamer.errors import CalibrationError
from gossamer.methods.solve.linear_algebra import inverse_factor
from tests.methods.reference import correlated_gram, damped


def test_the_factor_gives_the_inverse_of_the_damped_matrix():
    gram, _ = correlated_gram(48)
    notes = []
    factor = inverse_factor(torch.from_numpy(gram).float(), 0.01, notes)
    upper = factor.upper_II.double().numpy()
    assert np.array_equal(upper, np.triu(upper))
    np.testing.assert_allclose(upper.T @ upper @ damped(gram), np.eye(48), atol=1e-4)
    np.testing.assert_allclose(upper, np.linalg.cholesky(np.linalg.inv(damped(gram))).T, rtol=1e-4, atol=1e-6)
    assert notes == []
    assert not factor.dead_I.any()


def test_dead_inputs_are_reported_and_stand_alone():
    gram, _ = correlated_gram(10)
    gram[[2, 7]] = 0
    gram[:, [2, 7]] = 0
    notes = []
    factor = inverse_factor(torch.from_numpy(gram).float(), 0.01, notes)
    assert factor.dead_I.nonzero()[:, 0].tolist() == [2, 7]
    assert notes == ["2 of 10 inputs are zero in all calibration data"]
    live = [0, 1, 3, 4, 5, 6, 8, 9]
    alone = inverse_factor(torch.from_numpy(gram[np.ix_(live, live)]).float(), 0.01, [])
    torch.testing.assert_close(factor.upper_II[live][:, live], alone.upper_II)
    assert (factor.upper_II[2, 3:] == 0).all()
    assert (factor.upper_II[:2, 2] == 0).all()


def test_a_singular_matrix_without_damping_is_damped_and_reported():
    x_TI = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    notes = []
    factor = inverse_factor(x_TI.T @ x_TI / 3, 0.0, notes)
    assert factor.damping == 0.01
    assert notes == ["the Gram matrix is not positive definite: damping raised from 0 to 0.01"]
    assert torch.isfinite(factor.upper_II).all()


def test_an_indefinite_matrix_gets_stronger_damping_in_steps():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    matrix[0, 1] = matrix[1, 0] = 1.05
    notes = []
    assert inverse_factor(matrix, 0.01, notes).damping == pytest.approx(0.1)
    assert "from 0.01 to 0.1" in notes[0]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.tensor([[1.0, 9.0], [9.0, 1.0]]), "even with damping 1"),
        (torch.tensor([[1.0, float("nan")], [float("nan"), 1.0]]), "NaN or infinite"),
        (torch.zeros(2, 2), "every input of the layer is zero"),
    ],
)
def test_a_matrix_that_cannot_be_used_is_an_error(matrix, message):
    with pytest.raises(CalibrationError, match=message):
        inverse_factor(matrix, 0.01, [])
