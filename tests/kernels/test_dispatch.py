"""Choices at run time: instruction set, threads, forks, a machine that is busy, and native code that is missing."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from gossamer.errors import UsageError
from gossamer.kernels import cpu, dispatch
from tests.kernels import packer

needs_native = pytest.mark.skipif(
    not dispatch.native_available(), reason="gossamer.kernels._native is not built"
)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "gossamer.kernels._native", None)
    dispatch.native_module.cache_clear()
    yield
    monkeypatch.undo()
    dispatch.native_module.cache_clear()


def large_matrix() -> tuple[cpu.CpuMatrix, torch.Tensor, torch.Tensor]:
    """A product that is large enough for several threads, and its result."""
    rng = np.random.default_rng(0)
    packed = packer.pack_integer(rng, 160, 256, bits=4, group_size=64)
    matrix = cpu.integer(packed.meta, packed.tensors)
    assert matrix is not None
    x_TI = torch.from_numpy(rng.normal(size=(64, 256)).astype(np.float32))
    return matrix, x_TI, matrix.matmul(x_TI)


@needs_native
def test_the_instruction_set_comes_from_the_environment() -> None:
    code = "import importlib; print(importlib.import_module('gossamer.kernels._native').isa())"
    for isa in dispatch.available_isas():
        assert run_python(code, GOSSAMER_ISA=isa).stdout.strip() == isa


@needs_native
def test_an_unknown_instruction_set_is_explained() -> None:
    code = "from gossamer.kernels import dispatch; dispatch.isa()"
    error = run_python(code, GOSSAMER_ISA="sse9").stderr
    names = ", ".join(dispatch.available_isas())
    assert f"UsageError: GOSSAMER_ISA: expected one that this machine has ({names}), got 'sse9'" in error


@needs_native
def test_the_best_instruction_set_is_the_default() -> None:
    code = "from gossamer.kernels import dispatch; print(dispatch.isa())"
    assert run_python(code, GOSSAMER_ISA="").stdout.strip() == dispatch.available_isas()[-1]


@needs_native
@pytest.mark.parametrize("text", ["0", "-1", "two", "9999"])
def test_a_bad_number_of_threads_is_explained(text: str) -> None:
    code = "from gossamer.kernels import dispatch; dispatch.num_threads()"
    assert f"got '{text}'" in run_python(code, GOSSAMER_NUM_THREADS=text).stderr


@needs_native
def test_threads_come_from_the_environment_then_from_the_affinity_mask() -> None:
    code = "from gossamer.kernels import dispatch; print(dispatch.num_threads())"
    assert run_python(code, GOSSAMER_NUM_THREADS="3").stdout.strip() == "3"
    pinned = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); " + code
    assert run_python(pinned, GOSSAMER_NUM_THREADS="").stdout.strip() == "1"


@needs_native
@pytest.mark.parametrize("count", [0, -1, 1025])
def test_impossible_numbers_of_threads_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match="num_threads: expected 1 to 1024"):
        dispatch.set_num_threads(count)


@needs_native
def test_the_pool_restarts_with_another_number_of_threads() -> None:
    matrix, x_TI, expected = large_matrix()
    for count in (1, 4, 2, 1, 3, 2):
        dispatch.set_num_threads(count)
        assert dispatch.num_threads() == count
        for _ in range(3):
            assert torch.equal(matrix.matmul(x_TI), expected)


@needs_native
def test_products_from_several_python_threads_do_not_disturb_each_other() -> None:
    matrix, x_TI, expected = large_matrix()
    dispatch.set_num_threads(2)
    wrong = []

    def multiply() -> None:
        for _ in range(20):
            if not torch.equal(matrix.matmul(x_TI), expected):
                wrong.append(1)

    threads = [threading.Thread(target=multiply) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_native
def test_the_pool_works_in_a_forked_child() -> None:
    code = """
import os, torch
from tests.kernels.test_dispatch import large_matrix
from gossamer.kernels import dispatch
dispatch.set_num_threads(2)
matrix, x_TI, expected = large_matrix()
child = os.fork()
if child == 0:
    same = all(torch.equal(matrix.matmul(x_TI), expected) for _ in range(10))
    os._exit(0 if same and dispatch.num_threads() == 2 else 1)
status = os.waitpid(child, 0)[1]
assert torch.equal(matrix.matmul(x_TI), expected)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""
    result = run_python(code, PYTHONWARNINGS="ignore")
    assert result.returncode == 0, result.stderr


@needs_native
def test_more_threads_than_cpus_and_a_busy_machine_still_finish() -> None:
    """Workers that are not scheduled are not waited for: this takes a moment, not minutes."""
    matrix, x_TI, expected = large_matrix()
    dispatch.set_num_threads(2 * (os.cpu_count() or 1) + 1)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        for _ in range(200):
            assert torch.equal(matrix.matmul(x_TI), expected)
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_missing_native_code_is_said_once(without_native: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="gossamer"):
        assert not dispatch.native_available()
        assert dispatch.isa() == "none"
        assert dispatch.available_isas() == []
        assert dispatch.num_threads() == 1
        dispatch.set_num_threads(3)
    assert len(caplog.records) == 1
    assert "native kernels are not available" in caplog.text
