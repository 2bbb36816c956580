"""The reference products: rounding of activations, rows without the rest, the work of blocks."""

import pytest
import torch

from gossamer.formats.integer import IntegerWeight
from gossamer.kernels import reference
from gossamer.kernels.table import KERNELS
from tests.formats.cases import EXAMPLES, quantized


@pytest.mark.parametrize("block", [32, 64])
def test_activations_are_rounded_per_token_and_block(block: int) -> None:
    x = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    x[1, :block] = 0
    rounded = reference.round_activations(x, block)
    for token in range(3):
        for start in range(0, 100, block):
            run = x[token, start : start + block]
            scale = run.abs().max() / 127
            for value, got in zip(run.tolist(), rounded[token, start : start + block].tolist(), strict=True):
                code = (
                    round(float(torch.tensor(value) / scale)) if scale > 0 else 0
                )  # Python rounds half to even
                assert got == pytest.approx(code * float(scale), rel=1e-6)
                assert abs(code) <= 127


def test_halves_round_to_even_and_tiny_values_do_not_divide_by_zero() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5]])
    assert reference.round_activations(x, 64).tolist() == [[127.0, 0.0, 2.0, 2.0, 0.0]]
    assert not bool(reference.round_activations(torch.full((1, 64), 1e-45), 64).isnan().any())


def test_not_a_number_is_not_hidden() -> None:
    x = torch.zeros(1, 64)
    x[0, 3] = float("nan")
    assert bool(reference.round_activations(x, 64).isnan().any())


@pytest.mark.parametrize("name", [name for name, packed in EXAMPLES.items() if "bits" in packed.meta()])
def test_int8_products_use_rounded_inputs(name: str) -> None:
    packed = EXAMPLES[name]
    x = torch.randn(4, packed.shape[1], generator=torch.Generator().manual_seed(3))
    block = 32 if packed.meta()["group_size"] == 32 else 64
    got = KERNELS[packed.format, "reference"].matmul(packed.meta(), packed.tensors(), x, "int8")
    expected = reference.round_activations(x, block).double() @ packed.unpack().double().T
    assert torch.allclose(got.double(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "name", [name for name, packed in EXAMPLES.items() if "'bits'" not in str(packed.meta())]
)
def test_float_values_never_round_their_inputs(name: str) -> None:
    packed = EXAMPLES[name]
    x = torch.randn(4, packed.shape[1], generator=torch.Generator().manual_seed(3))
    matmul = KERNELS[packed.format, "reference"].matmul
    assert torch.equal(
        matmul(packed.meta(), packed.tensors(), x, "int8"),
        matmul(packed.meta(), packed.tensors(), x, "float"),
    )


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_are_dequantized_without_the_rest(bits: int, symmetric: bool) -> None:
    packed = IntegerWeight.pack(quantized(37, 96, bits, 32, symmetric))
    rows = torch.tensor([[0, 36], [17, 17], [15, 16]])
    got = reference.integer_rows(packed.meta(), packed.tensors(), rows)
    assert torch.equal(got, packed.unpack()[rows])


def test_pointers_expand_to_rows() -> None:
    assert reference.expand_pointers(torch.tensor([0, 2, 2, 3])).tolist() == [0, 0, 2]
