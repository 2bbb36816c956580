"""Adding up gradients of kept weights alone: the numbers of whole matrices, in the density's share of the bytes."""

import json

import torch
from torch import nn

from gossamer.training.exchange import buckets
from tests.training.together import torchrun


def test_what_is_added_up_is_what_torch_adds_up_of_whole_matrices_in_fewer_bytes() -> None:
    result = torchrun("tests.training.together", "exchange")
    assert result.returncode == 0, result.stderr
    first, second = json.loads(result.stdout)
    assert first == second
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    kept_numbers, numbers = [], []
    for generator, shape in zip(generators, [(6, 8), (4, 8), (16, 12), (3, 3)], strict=True):
        torch.randn(shape, generator=generator)
        kept_numbers.append(int((torch.rand(shape, generator=generator) < 0.5).sum()))
        numbers.append(shape[0] * shape[1])
    for kind, width in (("exact", 4), ("bf16", 2)):
        found = first[kind]
        assert found["equal"] == [True, True, True, None], kind
        sent = 4 + width * sum(
            kept_numbers[:3]
        )  # a flag for each matrix, and gradients of those that have any
        assert found["record"]["bytes_per_step"] == sent
        assert found["record"]["dense_bytes_per_step"] == sent + width * (sum(numbers) - sum(kept_numbers))


def test_buckets_hold_every_number_once_and_are_few() -> None:
    masters = [nn.Parameter(torch.empty(size)) for size in (3, 4, 20, 1, 1, 9)]
    sizes = [[each.numel() for each in group] for group in buckets(masters, 10)]
    assert sizes == [[3, 4], [20], [1, 1], [9]]
    assert [each for group in buckets(masters, 10) for each in group] == masters
