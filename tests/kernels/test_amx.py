"""Products in tiles (AMX), emulated where the machine has none: csrc/tests/amx_test.cpp holds them to plain loops.
A machine that has tiles runs all other tests of kernels with them too."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gossamer.kernels import dispatch

SOURCES = (
    "csrc/core/tiles.cpp",
    "csrc/kernels/amx.cpp",
    "csrc/tests/amx_test.cpp",
    "csrc/tests/amx_emulator.cpp",
)
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


def assembles_tiles() -> bool:
    if COMPILER is None or "avx512" not in dispatch.available_isas():
        return False
    code = 'int main() { asm volatile("tilerelease"); }'
    command = [COMPILER, "-x", "c++", "-", "-c", "-o", os.devnull]
    return subprocess.run(command, input=code, text=True, capture_output=True).returncode == 0


@pytest.mark.skipif(not assembles_tiles(), reason="needs AVX-512 and a compiler that assembles AMX")
def test_products_in_tiles_are_those_of_plain_loops(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    assert COMPILER is not None
    flags = ["-std=c++20", "-O1", "-march=icelake-server", "-pthread", "-DGOSSAMER_AMX", f"-I{root / 'csrc'}"]
    program = tmp_path / "amx_test"
    sources = [str(root / source) for source in SOURCES]
    subprocess.run([COMPILER, *flags, *sources, "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "right" in done.stdout
