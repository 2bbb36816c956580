"""Aiming at the dense model: the closed form, and what it gives back."""

import numpy as np
import torch

from gossamer.calibration.statistics import Moments
from gossamer.methods.solve.align import RIDGE_TOKENS, aligned


def streams(num_tokens=400_000, num_inputs=24, num_outputs=8, seed=0):
    """Inputs of the dense and the compressed model, residual streams of both, and a weight."""
    generator = torch.Generator().manual_seed(seed)
    dense_TI = torch.randn(num_tokens, num_inputs, generator=generator)
    noise_TI = torch.randn(num_tokens, num_inputs, generator=generator)
    x_TI = dense_TI + 0.3 * noise_TI
    drift_TO = 0.5 * x_TI[:, :num_outputs] + 0.1 * torch.randn(num_tokens, num_outputs, generator=generator)
    weight_OI = torch.randn(num_outputs, num_inputs, generator=generator)
    return x_TI, dense_TI, drift_TO, weight_OI


def test_the_weight_is_ridge_regression_on_what_the_dense_model_gives():
    x_TI, dense_TI, drift_TO, weight_OI = streams()
    moments = Moments(24)
    moments.update_wanted(x_TI, dense_TI @ weight_OI.T + drift_TO)
    got_OI = aligned(weight_OI, weight_OI, moments, [])
    x, dense, drift, weight = (each.double().numpy() for each in (x_TI, dense_TI, drift_TO, weight_OI))
    gram = x.T @ x / len(x)
    gram += RIDGE_TOKENS / len(x) * np.diag(gram).mean() * np.eye(24)
    wanted = dense @ weight.T + drift - x @ weight.T
    exact = weight + np.linalg.solve(gram, x.T @ wanted / len(x)).T
    np.testing.assert_allclose(got_OI.numpy(), exact, atol=1e-4)


def test_the_outputs_come_closer_to_the_dense_stream():
    x_TI, dense_TI, drift_TO, weight_OI = streams()
    moments = Moments(24)
    moments.update_wanted(x_TI, dense_TI @ weight_OI.T + drift_TO)
    wanted_TO = dense_TI @ weight_OI.T + drift_TO
    errors = [
        float((x_TI @ each.T - wanted_TO).square().sum())
        for each in (weight_OI, aligned(weight_OI, weight_OI, moments, []))
    ]
    assert errors[1] < 0.85 * errors[0]


def test_a_few_tokens_move_the_weight_little():
    x_TI, dense_TI, drift_TO, weight_OI = streams()
    shifts = []
    for num_tokens in (1000, 100_000):
        moments = Moments(24)
        moments.update_wanted(x_TI[:num_tokens], (dense_TI @ weight_OI.T + drift_TO)[:num_tokens])
        shifts.append(float((aligned(weight_OI, weight_OI, moments, []) - weight_OI).norm()))
    assert shifts[0] < 0.1 * shifts[1]


def test_where_nothing_was_lost_the_weight_stays_and_dead_inputs_keep_theirs():
    x_TI, _, _, weight_OI = streams()
    x_TI[:, 5] = 0.0
    moments = Moments(24)
    moments.update_pair(x_TI, x_TI)
    notes: list[str] = []
    torch.testing.assert_close(aligned(weight_OI, weight_OI, moments, notes), weight_OI, atol=1e-5, rtol=1e-5)
    assert notes == ["1 of 24 inputs are zero in all calibration data"]
