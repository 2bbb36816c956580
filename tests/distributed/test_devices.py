"""Tensors of any device are exchanged, and stay on it."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from gossamer.distributed.processes import Processes
from tests.away import away


def test_what_processes_exchange_passes_through_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_two_alike(tensor: Tensor, *_: object) -> None:
        assert tensor.device.type == "cpu"
        tensor.mul_(2)

    monkeypatch.setattr(dist, "all_reduce", of_two_alike)
    monkeypatch.setattr(dist, "broadcast", of_two_alike)
    processes = Processes()
    processes.count = 2
    with away() as device:
        for exchange in (processes.same, processes.total, processes.largest):
            tensor = torch.ones(3).to(device)
            assert exchange(tensor) is tensor
            assert tensor.device == device
            assert tensor.tolist() == [2.0, 2.0, 2.0]
        assert processes.mean(torch.tensor([1.0, 3.0], device=device)) == 2.0
    here = torch.ones(3)
    assert processes.total(here) is here
    assert here.tolist() == [2.0, 2.0, 2.0]
