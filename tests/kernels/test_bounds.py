"""Kernels read and write nothing outside of their buffers: every buffer ends, then begins, at a page that traps."""

import ctypes
import mmap
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from gossamer.kernels import dispatch

needs_native = pytest.mark.skipif(
    not dispatch.native_available(), reason="gossamer.kernels._native is not built"
)
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_kept: list[mmap.mmap] = []


def beside_a_trap(tensor: Tensor, at_end: bool) -> Tensor:
    """Return a copy whose memory touches a page that must not be touched, behind it or before it."""
    data = tensor.contiguous().flatten().view(torch.uint8)
    size = data.numel()
    pages = -(-size // PAGE)
    room = mmap.mmap(-1, (pages + 2) * PAGE)
    _kept.append(room)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    for page in (0, pages + 1):
        assert _libc.mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, 0) == 0
    start = PAGE + (pages * PAGE - size if at_end else 0)
    copy = torch.frombuffer(room, dtype=torch.uint8, count=size, offset=start)
    copy.copy_(data)
    return copy.view(tensor.dtype).view(tensor.shape)


def multiply_beside_traps() -> None:
    """Every format, every instruction set; run in a process of its own, which a bad access kills."""
    from tests.kernels import test_cpu

    native = dispatch.native_module()
    assert native is not None
    rng = np.random.default_rng(0)
    for name, make in test_cpu.FORMATS.items():
        for rows, columns, group_size in ((17, 100, 100), (16, 128, 64)):
            packed = make(rng, rows, columns, group_size=columns if "float" in name else group_size)
            for at_end in (True, False):
                packed.tensors = {key: beside_a_trap(t, at_end) for key, t in packed.tensors.items()}
                matrix = test_cpu.build(packed)
                for isa in dispatch.available_isas():
                    native.set_isa(isa)
                    for num_tokens in (1, 2, 17):
                        x_TI = beside_a_trap(torch.ones(num_tokens, columns), at_end)
                        y_TO = beside_a_trap(torch.zeros(num_tokens, rows), at_end)
                        for int8 in (False, True):
                            matrix._matmul(x_TI.data_ptr(), num_tokens, y_TO.data_ptr(), int8)
                assert torch.isfinite(matrix.unpack()).all()


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", f"from tests.kernels import test_bounds as t; {code}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@needs_native
@needs_linux
def test_no_kernel_touches_memory_outside_of_its_buffers() -> None:
    result = run("t.multiply_beside_traps()")
    assert result.returncode == 0, (result.returncode, result.stderr)


@needs_linux
def test_the_trap_catches_a_read_of_one_byte_too_many() -> None:
    code = (
        "import torch, ctypes; trap = t.beside_a_trap(torch.zeros(3), True); "
        "ctypes.string_at(trap.data_ptr(), 12); ctypes.string_at(trap.data_ptr(), 13)"
    )
    assert run(code).returncode < 0
