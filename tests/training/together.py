"""What tests run in several processes: `torchrun -m tests.training.together WHAT ...`."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

import gossamer
from gossamer.distributed.processes import Processes
from gossamer.training import exchange as exchanges
from gossamer.training import loop
from gossamer.training.kept import FloatWeight
from gossamer.training.settings import TrainingSettings
from gossamer.training.student import Student


def torchrun(module: str, *arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a module in several processes."""
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    return subprocess.run(
        [sys.executable, *start, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        cwd=Path(__file__).parents[2],
    )


def exchange() -> None:
    """Compare what is added up with what torch's DistributedDataParallel makes of whole matrices.

    The second matrix has no gradient in the second process, the last one in none.
    """
    exchanges.BUCKET_NUMBERS = 70
    found: dict[str, Any] = {}
    with Processes() as processes:
        generator = torch.Generator().manual_seed(processes.index)
        for kind in exchanges.ALL_REDUCES:
            weights, wanted = [], []
            for number, shape in enumerate([(6, 8), (4, 8), (16, 12), (3, 3)]):
                weight = _weight(number, shape)
                gradient_OI = torch.randn(shape, generator=generator)
                if number == 1 and processes.index == 1:
                    gradient_OI.zero_()
                elif number < 3:
                    weight.values_n.grad = weight.take(gradient_OI).clone()
                weights.append(weight)
                wanted.append(weight.take(_by_torch(gradient_OI, kind)))
            student = Student(nn.Linear(1, 1))  # type: ignore[arg-type]
            student.dense = {str(number): (None, weight) for number, weight in enumerate(weights)}  # type: ignore[misc]
            own = exchanges.Exchange(processes, student, kind)
            own.add_up()
            grads = [weight.values_n.grad for weight in weights]
            equal = [
                None if grad_n is None else torch.equal(grad_n, wanted_n)
                for grad_n, wanted_n in zip(grads, wanted, strict=True)
            ]
            found[kind] = {"equal": equal, "record": own.record()}
        everywhere = processes.gathered(found)
    if processes.index == 0:
        print(json.dumps(everywhere))  # noqa: T201 - what the test reads


def _weight(seed: int, shape: tuple[int, int]) -> FloatWeight:
    generator = torch.Generator().manual_seed(seed)
    weight_OI = torch.randn(shape, generator=generator)
    return FloatWeight(weight_OI, torch.rand(shape, generator=generator) < 0.5, torch.float32)


def _by_torch(gradient_OI: Tensor, kind: str) -> Tensor:
    """Return the sum over both processes of the gradient of a whole matrix."""
    num_outputs, num_inputs = gradient_OI.shape
    parallel = DistributedDataParallel(nn.Linear(num_inputs, num_outputs, bias=False))
    if kind == "bf16":
        # wrapped, since torch lets it pass by that name for GPUs only
        parallel.register_comm_hook(None, lambda group, bucket: bf16_compress_hook(group, bucket))
    (parallel(torch.eye(num_inputs)) * gradient_OI.T).sum().backward()
    mean_OI = parallel.module.weight.grad
    assert isinstance(mean_OI, Tensor)
    return 2 * mean_OI


def recover(fault: str, small: str, parent: str, text: str, out: str) -> None:
    """Recover a folder; `fault` says what goes wrong on the way."""
    torch.set_num_threads(1)
    first = os.environ["RANK"] == "0"
    if fault == "nan" and not first:
        _break_loss(4)
    if fault == "dies" and not first:
        _die_in_step(4)

    def progress(what: str, done: int, _total: int) -> None:
        if fault == "killed" and what == "training, steps" and done == 4:
            _kill_all()

    settings = TrainingSettings(length=32, batch=5, precision="float32")
    resume = fault == "resume"
    result = gossamer.recover(
        small, parent=parent, text=text, out=out, steps=6, settings=settings, resume=resume, progress=progress
    )
    assert bool(result.record) == first


def _break_loss(call: int) -> None:
    """Let the loss be NaN once, here alone."""
    calls, real = [0], loop.loss_of

    def broken(*given: Any) -> Any:
        calls[0] += 1
        loss = real(*given)
        return replace(loss, total=loss.total * float("nan")) if calls[0] == call else loss

    loop.loss_of = broken  # type: ignore[assignment]


def _die_in_step(call: int) -> None:
    calls, real = [0], loop.learn

    def dying(*given: Any) -> float:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)

    loop.learn = dying  # type: ignore[assignment]


def _kill_all() -> None:
    """Kill torchrun and all processes that it started."""
    parent = os.getppid()
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    children = {int(number) for task in tasks for number in task.read_text().split()}
    for each in (parent, *(children - {os.getpid()}), os.getpid()):
        os.kill(each, signal.SIGKILL)


if __name__ == "__main__":
    {"exchange": exchange, "recover": recover}[sys.argv[1]](*sys.argv[2:])
