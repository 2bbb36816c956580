"""What a token of training costs in products."""

import torch

from gossamer.checkpoint.source import open_model
from gossamer.training.effort import operations_of_token, peak_operations
from gossamer.training.enrol import enrol
from tests.training.conftest import Folders


def test_a_token_takes_three_products_of_what_is_trained_and_two_of_the_rest(folders: Folders) -> None:
    parent, small = folders("half int4")
    student = enrol(open_model(small), "all", embeddings=False, rank=4, seed=0)
    dense = open_model(parent).model
    linears = [module for module in dense.modules() if isinstance(module, torch.nn.Linear)]
    head = dense.get_output_embeddings().weight.numel()
    blocks = sum(module.weight.numel() for module in linears) - head
    assert operations_of_token(student, teacher_runs=False) == 2 * (3 * blocks + 2 * head)
    assert operations_of_token(student, teacher_runs=True) == 2 * (4 * blocks + 3 * head)


def test_the_peak_is_not_far_from_what_a_product_takes() -> None:
    assert 1e8 < peak_operations(torch.float32) < 1e15
