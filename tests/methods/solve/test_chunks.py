"""The native loops of feedback and descent beside the plain ones. O output features, I input features."""

from dataclasses import replace

import pytest
import torch

from gossamer.kernels.dispatch import native_available
from gossamer.methods.solve import descend, feedback

pytestmark = pytest.mark.skipif(not native_available(), reason="gossamer.kernels._native is not built")

NUM_INPUTS, FIRST, COUNT, GROUP = 96, 32, 32, 16


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kept(num_rows: int, masked: bool) -> torch.Tensor | None:
    return (random(NUM_INPUTS, num_rows, seed=3) > 0).float() if masked else None


def scales(num_rows: int) -> torch.Tensor:
    scale_GO = random(NUM_INPUTS // GROUP, num_rows, seed=4).abs() / 8
    scale_GO[:, ::7] = 0  # groups without a kept weight have none
    return scale_GO


def hessian() -> torch.Tensor:
    x_TI = random(400, NUM_INPUTS, seed=5)
    return x_TI.T @ x_TI / 400 + 0.1 * torch.eye(NUM_INPUTS)


def fixing(num_rows: int, masked: bool, rounded: bool) -> feedback.Fixing:
    upper_II = torch.linalg.cholesky(torch.linalg.inv(hessian())).T.contiguous()
    grids = feedback.Grids(
        torch.randperm(NUM_INPUTS, generator=torch.Generator().manual_seed(6)) // GROUP,
        scales(num_rows),
        random(NUM_INPUTS // GROUP, num_rows, seed=7) / 8,
        (-8, 7),
        torch.zeros(NUM_INPUTS, num_rows),
    )
    return feedback.Fixing(
        random(NUM_INPUTS, num_rows), upper_II, kept(num_rows, masked), grids if rounded else None
    )


@pytest.mark.parametrize("num_rows", [1, 63, 200])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rounded", [False, True])
def test_a_chunk_of_feedback_is_what_the_plain_loop_makes_of_it(
    num_rows: int, masked: bool, rounded: bool
) -> None:
    native, plain = fixing(num_rows, masked, rounded), fixing(num_rows, masked, rounded)
    errors = torch.zeros(2, COUNT, num_rows)
    feedback._fix_chunk(native, FIRST, errors[0])
    feedback.fix_chunk_plainly(plain, FIRST, errors[1])
    torch.testing.assert_close(native.weight_IO, plain.weight_IO)
    torch.testing.assert_close(errors[0], errors[1], rtol=1e-4, atol=1e-5)
    if native.grids is not None and plain.grids is not None:
        assert torch.equal(native.grids.code_IO, plain.grids.code_IO)
        assert native.grids.code_IO[FIRST : FIRST + COUNT].unique().numel() > min(num_rows, 8)
    untouched = native.weight_IO[:FIRST]
    assert torch.equal(untouched, random(NUM_INPUTS, num_rows)[:FIRST])


@pytest.mark.parametrize("num_rows", [1, 63, 200])
@pytest.mark.parametrize("masked", [False, True])
def test_a_chunk_of_descent_is_what_the_plain_loop_makes_of_it(num_rows: int, masked: bool) -> None:
    scale_GO = scales(num_rows)
    made = descend.Descent(
        random(NUM_INPUTS, num_rows),
        hessian(),
        random(NUM_INPUTS, num_rows, seed=8),
        kept(num_rows, masked),
        scale_GO,
        torch.zeros_like(scale_GO),
        torch.zeros(NUM_INPUTS, num_rows),
    )
    plain = replace(made, code_IO=made.code_IO.clone())
    changes = torch.zeros(2, COUNT, num_rows)
    descend._descend_chunk(made, FIRST, changes[0], GROUP, (-8, 7))
    descend.descend_chunk_plainly(plain, FIRST, changes[1], GROUP, (-8, 7))
    assert torch.equal(made.code_IO, plain.code_IO)
    torch.testing.assert_close(changes[0], changes[1])


def test_native_code_refuses_what_does_not_fit() -> None:
    good = fixing(8, True, True)
    assert good.grids is not None
    for bad, message in (
        (replace(good, upper_II=torch.eye(8)), "factor"),
        (replace(good, kept_IO=torch.ones(3, 8)), "kept"),
        (replace(good, grids=replace(good.grids, group_I=good.grids.group_I + 1)), "groups"),
        (replace(good, grids=replace(good.grids, scale_GO=torch.ones(6, 4))), "scale"),
        (replace(good, grids=replace(good.grids, code_IO=torch.ones(3, 8))), "codes"),
    ):
        with pytest.raises(ValueError, match=message):
            feedback._fix_chunk(bad, FIRST, torch.zeros(COUNT, 8))
    with pytest.raises(ValueError, match="chunk"):
        feedback._fix_chunk(good, 90, torch.zeros(COUNT, 8))
