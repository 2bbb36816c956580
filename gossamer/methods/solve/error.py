"""The error that compression adds to a layer's output, from its weights and the Gram matrix of its inputs.

sum_t ||(W - W') x_t||^2 / sum_t ||W x_t||^2 = tr(E G E^T) / tr(W G W^T), with E = W - W' and G = mean_t
x_t x_t^T: the objective of SparseGPT (arXiv 2301.00774, eq. 1) and GPTQ (arXiv 2210.17323, eq. 1),
relative to the output.

O output features, I input features.
Cost: two products of O x I x I.
"""

from torch import Tensor


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
