"""The published equations once more, in float64 numpy, without blocks, factors or tricks: slow and plain.

Everything works on the inverse Hessian itself, which is downdated (one step of Gaussian elimination) after
each input, as in optimal brain surgery; the library works on its Cholesky factor.
"""

import numpy as np


def damped(gram, damping=0.01):
    return gram + damping * np.mean(np.diag(gram)) * np.eye(len(gram))


def inverse_sequence(hessian):
    """Yield for each input j the row of the inverse, restricted to inputs j.. once the earlier are fixed."""
    inverse = np.linalg.inv(hessian)
    rows = []
    for j in range(len(hessian)):
        rows.append(inverse[j].copy())
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return rows


def compress(weight, hessian, quantize_column):
    """Fix the inputs in order, q = quantize_column(j, w, weight); the later ones take the optimal update."""
    weight = weight.copy()
    for j, row in enumerate(inverse_sequence(hessian)):
        fixed = quantize_column(j, weight[:, j].copy(), weight)
        error = (weight[:, j] - fixed) / row[j]
        weight[:, j + 1 :] -= np.outer(error, row[j + 1 :])
        weight[:, j] = fixed
    return weight


def largest(score, count):
    mask = np.zeros(score.size, bool)
    mask[np.argsort(-score.ravel(), kind="stable")[:count]] = True
    return mask.reshape(score.shape)


def sparsegpt(weight, gram, sparsity, block=128, n_m=None, damping=0.01):
    """Return (weight, mask) of SparseGPT; unstructured per block of inputs, or N:M."""
    hessian = damped(gram, damping)
    variance = np.array([row[j] for j, row in enumerate(inverse_sequence(hessian))])
    num_rows, num_inputs = weight.shape
    mask = np.ones(weight.shape, bool)
    width = n_m[1] if n_m else block

    def column(j, w, current):
        if j % width == 0:
            stop = min(j + width, num_inputs)
            cost = current[:, j:stop] ** 2 / variance[j:stop]
            if n_m:
                for r in range(num_rows):
                    mask[r, j:stop] = largest(cost[r], n_m[0])
            else:
                upto = [round((1 - sparsity) * num_rows * end) for end in (j, stop)]
                mask[:, j:stop] = largest(cost, upto[1] - upto[0])
        return np.where(mask[:, j], w, 0.0)

    return compress(weight, hessian, column), mask


def gptq(weight, gram, bits, group, mask=None, damping=0.01):
    """Return (weight, codes) of GPTQ, symmetric: scale = -extreme kept weight / 2**(bits-1), no search."""
    half = 2 ** (bits - 1)
    scale = np.zeros(len(weight))
    codes = np.zeros(weight.shape, int)
    keep = np.ones(weight.shape, bool) if mask is None else mask

    def column(j, w, current):
        if j % group == 0:
            values = np.where(keep[:, j : j + group], current[:, j : j + group], 0.0)
            extreme = values[np.arange(len(values)), np.abs(values).argmax(1)]
            scale[:] = (-extreme / half).astype(np.float16).astype(np.float64)
        codes[:, j] = np.clip(np.rint(w / np.where(scale == 0, 1, scale)), -half, half - 1)
        return codes[:, j] * scale * keep[:, j]

    return compress(weight, damped(gram, damping), column), codes + half


def correlated_gram(num_inputs, num_tokens=2048, seed=0):
    """Return the Gram matrix of inputs with uneven scales and correlations, and the inputs."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(num_inputs, num_inputs)) / np.sqrt(num_inputs) + 0.3 * np.eye(num_inputs)
    scales = np.exp(rng.normal(size=num_inputs))
    x = rng.normal(size=(num_tokens, num_inputs)) @ mixing * scales
    return x.T @ x / num_tokens, x


def eora(error, gram, rank):
    """EoRA, section 3: project the error on the scaled eigenvectors of the Gram matrix, truncate, project back."""
    values, vectors = np.linalg.eigh(gram)
    scaled = vectors * np.sqrt(values)
    left, singular, right = np.linalg.svd(error @ scaled, full_matrices=False)
    truncated = (left[:, :rank] * singular[:rank]) @ right[:rank]
    return truncated @ (vectors / np.sqrt(values)).T


def oats(weight, norms, rank, kept_per_row, iterations):
    """OATS, algorithm 1: truncated singular values and the largest entries of each row by turns, on W D."""
    scaled = weight * norms
    sparse = np.zeros_like(scaled)
    for _ in range(iterations):
        left, singular, right = np.linalg.svd(scaled - sparse, full_matrices=False)
        low_rank = (left[:, :rank] * singular[:rank]) @ right[:rank]
        rest = scaled - low_rank
        order = np.argsort(-np.abs(rest), axis=1)[:, :kept_per_row]
        sparse = np.zeros_like(rest)
        np.put_along_axis(sparse, order, np.take_along_axis(rest, order, 1), 1)
    return sparse / norms, low_rank / norms
