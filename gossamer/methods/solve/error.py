"""The error that compression adds to a layer's output, from its weights and the Gram matrix of its inputs.

sum_t ||(W - W') x_t||^2 / sum_t ||W x_t||^2 = tr(E G E^T) / tr(W G W^T), with E = W - W' and G = mean_t
x_t x_t^T: the objective of SparseGPT (arXiv 2301.00774, eq. 1) and GPTQ (arXiv 2210.17323, eq. 1),
relative to the output.

O output features, I input features.
Cost: two products of O x I x I.
"""

from torch import Tensor

from gossamer.errors import RunError
from gossamer.methods.solve.layer_weight import LayerWeight

FAR = 30.0
"""Times the error that rounding to nearest would make, beyond which codes cannot be right. GPTQ's was 2.3 times that at
most in the tests of this project, a matrix of zeros has 50 times (4 bits) to 10,000 times (8 bits)."""
STORED_ERROR = 2.0**-10
"""Of the energy of the weights, that storing them in 16 bits may take."""


def relative_output_error(
    dense_OI: Tensor, compressed_OI: Tensor, gram_II: Tensor, total: float | None = None
) -> float:
    """Return the share of the output's energy that is lost: 0 = exact, 1 = as bad as all zeros.

    `total` is the energy of the dense output, where it is known. A layer whose output is always zero has error 0 if
    nothing is added to it, else infinity.
    """
    error = output_energy(dense_OI - compressed_OI, gram_II)
    if total is None:
        total = output_energy(dense_OI, gram_II)
    if total <= 0.0:
        return 0.0 if error <= 0.0 else float("inf")
    return max(error, 0.0) / total


def output_energy(weight_OI: Tensor, gram_II: Tensor) -> float:
    """Return tr(W G W^T), the mean of ||W x_t||^2."""
    return float(((weight_OI @ gram_II) * weight_OI).double().sum())


def check_packed(name: str, layer: LayerWeight, packed_OI: Tensor) -> None:
    """Raise RunError, with the name of the matrix, where the weights that were packed are not those that were meant.

    `packed_OI` is what the packed form unpacks to. It has to be the layer's weight, but for rounding to the type of
    floats; and where the layer's weight was rounded to codes and neither pruned nor given factors, near the weight that
    was rounded, as its bits allow.
    """
    lost, energy = _square(layer.whole_OI - packed_OI), _square(layer.whole_OI)
    if not lost <= STORED_ERROR * energy:
        raise _far_off(name, lost, energy, f"at most {STORED_ERROR:.2g} was expected of storing them")
    codes = layer.quantized
    if codes is None or layer.mask_OI is not None or layer.factors is not None:
        return
    target_Ng = layer.target_OI.reshape(-1, codes.group_size)
    low_N, high_N = target_Ng.aminmax(dim=1)
    step_N = (high_N - low_N) / (2**codes.bits - 1)
    allowed = FAR * codes.group_size * _square(step_N) / 12
    lost, energy = _square(layer.target_OI - packed_OI), _square(layer.target_OI)
    if not lost <= max(allowed, STORED_ERROR * energy):
        raise _far_off(name, lost, energy, f"{codes.bits} bits allow about {allowed / FAR / energy:.2g}")


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())


def _far_off(name: str, lost: float, energy: float, expected: str) -> RunError:
    return RunError(
        f"{name}: the packed weights have lost {lost / energy if energy else lost:.2g} of their energy, {expected}. "
        "Give this layer more bits or smaller groups, or `skip` it; please report it with the recipe."
    )
