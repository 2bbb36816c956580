"""Instructions per weight of the products of one token on 64-bit ARM, counted in an emulator: a count, not a speed.

    make test-arm && python benchmarks/arm_instructions.py

Under qemu-aarch64, an instruction at a time: a product that runs twice less one that runs once, for a matrix of
48 rows less one of 16, is what 32 rows take. Prints a table for docs/benchmarks/kernels.md.
"""

import os
import subprocess
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "build" / "arm" / "product_times"
SYSTEM = "/usr/aarch64-linux-gnu"
FEW_ROWS, MORE_ROWS, COLUMNS = 16, 48, 1024
BITS = {
    "int4": 4,
    "int8": 8,
    "bitmask-int4": 3,
    "bitmask-int8": 5,
    "nm2of4-int4": 3,
    "nm4of8-int4": 3,
    "nm4of16-int4": 2,
    "nm8of16-int4": 4,
}
"""Bits per weight, without scales; half of a bitmask is kept."""


def count(format_name: str, rows: int, times: int) -> int:
    """Return how many instructions the program takes from start to end."""
    # One instruction a block, blocks not chained: each execution writes a line.
    emulator = ["qemu-aarch64", "-singlestep", "-d", "exec,nochain", "-L", SYSTEM]
    command = [*emulator, str(PROGRAM), format_name, str(rows), str(COLUMNS), str(times)]
    environment = os.environ | {"GOSSAMER_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        lines = sum(line.startswith(b"Trace ") for line in process.stderr)
    if process.returncode != 0:
        raise SystemExit(
            f"{' '.join(command)}: exit code {process.returncode}; build it with `make test-arm`"
        )
    return lines


def main() -> None:
    print("| format | bits a weight | instructions a weight |\n|---|---|---|")  # noqa: T201
    for name, bits in BITS.items():
        few, more = (count(name, rows, 2) - count(name, rows, 1) for rows in (FEW_ROWS, MORE_ROWS))
        weights = (MORE_ROWS - FEW_ROWS) * COLUMNS
        print(f"| {name} | {bits} | {(more - few) / weights:.3f} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
