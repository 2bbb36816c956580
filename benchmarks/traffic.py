"""What a token costs: the arithmetic of its products, the bytes they read, and what decoding takes when both are known.

    python -m benchmarks.traffic FOLDER ... [--readers 0 1] [--json]

One thread on the first core. For each folder:

- arithmetic: the time of the products of all its matrices, each repeated until its bytes come from the core's own
  cache (a matrix larger than that by a part of its rows), less what a call takes that multiplies 16 rows;
- bytes: what a token reads, over the bandwidth at which the best kernels of this machine go once through as many bytes
  of the matrices of the largest folder;
- decode: tokens/s of the engine.

With `--readers 1` another process streams through 512 MB on the last core meanwhile: it stands for cores that want the
same memory. Its GB/s are printed, and the bandwidth that it leaves is probed like the other. The prediction is

    seconds a token = max(rest + arithmetic, bytes / bandwidth)

where `rest` (attention, norms, the step itself) is what the smallest folder takes beyond its arithmetic without
readers; so that one is right by construction, and all others are predictions. GOSSAMER_ISA chooses the level.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.ours import decode_seconds
from gossamer.checkpoint.manifest import read_manifest
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.packed import PackedWeight, from_tensors
from gossamer.formats.quantized import Quantized
from gossamer.kernels.dispatch import isa, native_module, set_num_threads
from gossamer.runtime.engine import Engine

OWN_CACHE_BYTES = 1_000_000
ROWS_OF_LARGE = 1024
DEPTH, TOKENS, ROUNDS = 64, 64, 5

READER = """
import numpy, os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
buffer = numpy.ones(64_000_000)
print("ready", flush=True)
count, started = 0, time.perf_counter()
while not os.path.exists(sys.argv[2]):
    buffer.sum()
    count += 1
print(count * buffer.nbytes / (time.perf_counter() - started) / 1e9)
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traffic", description="What a token costs.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--readers", nargs="+", type=int, default=[0, 1], choices=[0, 1])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 and 1 in given.readers:
        sys.exit("benchmarks/traffic.py: a reader needs a second core; ask for --readers 0")
    os.sched_setaffinity(0, {cores[0]})
    torch.set_num_threads(1)
    set_num_threads(1)
    folders = sorted(given.folders, key=lambda folder: (folder / "model.safetensors").stat().st_size)
    packed = {folder.name: matrices(folder) for folder in folders}
    arithmetic = {name: sum(seconds_of(each) for each in packed[name]) for name in packed}
    sizes = {name: sum(each.num_bytes for each in packed[name]) for name in packed}
    engines = {folder.name: Engine.open(folder, threads=1, cache_tokens=512) for folder in folders}
    largest = packed[folders[-1].name]
    rows: list[dict] = []
    rest: float | None = None
    for readers in given.readers:
        with reading(cores[-1], readers) as told:
            bandwidths = {name: bandwidth_of(largest, size) for name, size in sizes.items()}
            measured = decoding(engines)
        for name in packed:
            if rest is None:
                rest = 1 / measured[name] - arithmetic[name]
            rows.append(
                {
                    "isa": isa(), "model": name, "reader_gb_per_s": told.get("gb_per_s"),
                    "megabytes": sizes[name] / 1e6, "arithmetic_ms": 1e3 * arithmetic[name],
                    "bandwidth_gb_per_s": bandwidths[name],
                    "predicted": 1 / max(rest + arithmetic[name], sizes[name] / bandwidths[name] / 1e9),
                    "measured": measured[name],
                }
            )  # fmt: skip
    sys.stdout.write(json.dumps(rows) + "\n" if given.json else as_table(rows, rest))


def matrices(folder: Path) -> list[PackedWeight]:
    """All that a token is multiplied with, over the mapped file."""
    stored = load_file(folder / "model.safetensors")
    found = []
    for name, entry in read_manifest(folder)["tensors"].items():
        tensors = {key.removeprefix(f"{name}."): t for key, t in stored.items() if key.startswith(f"{name}.")}
        found.append(from_tensors(entry["meta"], tensors))
    return found


def part_of(packed: PackedWeight, rows: int) -> PackedWeight:
    """A matrix of the same integers with so many rows."""
    meta = packed.meta()
    codes_OI = torch.randint(0, 1 << meta["bits"], (rows, meta["shape"][1]), dtype=torch.uint8)
    scale_OG = torch.full((rows, meta["shape"][1] // (meta["group_size"] or meta["shape"][1])), 2.0**-7)
    return IntegerWeight.pack(Quantized(codes_OI, scale_OG, None, meta["bits"], meta["group_size"]))


def seconds_of(packed: PackedWeight) -> float:
    """A product with one token whose bytes are in the core's own cache, without the call."""
    share = 1.0
    if packed.num_bytes > OWN_CACHE_BYTES:
        if packed.meta()["format"] != "integer":
            raise ValueError(f"expected that only integers are larger than a cache, got {packed.meta()}")
        share, packed = packed.shape[0] / ROWS_OF_LARGE, part_of(packed, ROWS_OF_LARGE)
    return share * (repeated(packed) - call_seconds(packed.shape[1]))


def repeated(packed: PackedWeight, repeats: int = 40) -> float:
    """The shortest of three mean times of a product."""
    x_1I = torch.randn(1, packed.shape[1], generator=torch.Generator().manual_seed(0))
    packed.matmul(x_1I, "int8")
    times = []
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(repeats):
            packed.matmul(x_1I, "int8")
        times.append((time.perf_counter() - started) / repeats)
    return min(times)


@functools.cache
def call_seconds(num_inputs: int) -> float:
    """A product of 16 rows of 8 bits: hardly more than the call and the rounding of its input."""
    codes_OI = torch.zeros(16, num_inputs, dtype=torch.uint8)
    tiny = IntegerWeight.pack(Quantized(codes_OI, torch.ones(16, num_inputs // 64), None, 8, 64))
    return repeated(tiny, 400)


@contextmanager
def reading(core: int, readers: int) -> Iterator[dict[str, float]]:
    """Stream through memory on a core meanwhile; `gb_per_s` is known afterwards."""
    told: dict[str, float] = {}
    if not readers:
        yield told
        return
    with tempfile.TemporaryDirectory() as scratch:
        stop = Path(scratch) / "stop"
        command = [sys.executable, "-c", READER, str(core), str(stop)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield told
        finally:
            stop.touch()
            told["gb_per_s"] = float(process.communicate()[0])


def bandwidth_of(packed: Sequence[PackedWeight], size_bytes: int) -> float:
    """GB/s of products, by the best kernels, with matrices of so many bytes together: median of five passes."""
    native = native_module()
    assert native is not None
    before = native.isa()
    native.set_isa(native.available_isas()[-1])
    chosen: list[tuple[PackedWeight, torch.Tensor]] = []
    total = 0
    for each in sorted(packed, key=lambda each: each.num_bytes):
        if chosen and total + each.num_bytes > 1.05 * size_bytes:
            break
        chosen.append((each, torch.randn(1, each.shape[1])))
        total += each.num_bytes
    times = []
    for _ in range(6):
        started = time.perf_counter()
        for each, x_1I in chosen:
            each.matmul(x_1I, "int8")
        times.append(time.perf_counter() - started - sum(call_seconds(each.shape[1]) for each, _ in chosen))
    native.set_isa(before)
    return total / statistics.median(times[1:]) / 1e9


def decoding(engines: dict[str, Engine]) -> dict[str, float]:
    """Median tokens/s, the models interleaved."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(ROUNDS + 1):
        for name, engine in engines.items():
            seconds = decode_seconds(engine, DEPTH, TOKENS)
            if number:
                taken[name].append(TOKENS / seconds)
    return {name: statistics.median(values) for name, values in taken.items()}


def as_table(rows: list[dict], rest: float | None) -> str:
    lines = [
        f"{rows[0]['isa']}, one thread; rest {1e3 * (rest or 0):.2f} ms",
        "",
        "| model | reader, GB/s | MB a token | arithmetic, ms | bandwidth, GB/s | predicted | measured | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        reader = "" if row["reader_gb_per_s"] is None else f"{row['reader_gb_per_s']:.1f}"
        cells = [
            row["model"], reader, f"{row['megabytes']:.1f}", f"{row['arithmetic_ms']:.2f}",
            f"{row['bandwidth_gb_per_s']:.1f}", f"{row['predicted']:.0f}", f"{row['measured']:.0f}",
            f"{row['predicted'] / row['measured'] - 1:+.0%}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
