"""What the benchmarks beside llama.cpp run: our process and llama.cpp's tools, at a level of instructions.

Levels: `best`, what this machine has, and `avx2`, a stand-in for machines without more, where it has more.
"""

import hashlib
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.llama_cpp.build import Build, built
from benchmarks.llama_cpp.tools import batch_command, parse_batch
from benchmarks.rounds import Visit, rounds_of
from gossamer.evaluation.speed.llama_cpp import bench_command, parse_bench
from gossamer.kernels.dispatch import available_isas, isa, native_module


@dataclass(frozen=True, slots=True)
class Amounts:
    """Tokens of each figure; 0 leaves it out."""

    prompt: int = 512
    tokens: int = 128
    depth: int = 64
    batch: int = 8
    batch_tokens: int = 64


def levels() -> list[str]:
    """`best`, and `avx2` where that is less."""
    return ["best", "avx2"] if "avx2" in available_isas()[:-1] else ["best"]


def builds_of(chosen: Sequence[str]) -> dict[str, Any]:
    """Return what a report says of llama.cpp's builds, by level."""
    builds = {level: built(level, say) for level in chosen}
    return {level: {"flags": list(build.flags), "died": list(build.died)} for level, build in builds.items()}


def isa_of(level: str) -> str:
    """Return the instruction set of our kernels at a level."""
    return isa() if level == "best" else level


@dataclass(frozen=True, slots=True)
class Series:
    """How rounds are taken."""

    rounds: int
    store: Path
    """Where they are kept."""
    through: str
    """Put before each of them."""


def measure(
    folders: Mapping[str, Path], files: Mapping[str, Path], level: str, threads: int, amounts: Amounts, series: Series
) -> dict[str, Any]:  # fmt: skip
    """Return the rounds of all models at a level, interleaved, and what they were taken on."""
    visits = visits_of(folders, files, level, built(level, say), threads, amounts)
    key = f"{level}, {threads} threads, {identity(visits, [*folders.values(), *files.values()])}"
    taken = rounds_of(visits, series.rounds, series.store, key, series.through, say)
    bandwidth = statistics.median(figures["bandwidth"]["gb_per_s"] for figures in taken["rounds"])
    about = {"level": level, "isa": isa_of(level), "threads": threads, "read_bandwidth_gb_per_s": bandwidth}
    return {**about, **taken}


def visits_of(
    folders: Mapping[str, Path], files: Mapping[str, Path], level: str, build: Build, threads: int, amounts: Amounts
) -> list[Visit]:  # fmt: skip
    """Return a round: the memory's bandwidth, our folders, llama.cpp's files."""
    environment = {} if level == "best" else {"GOSSAMER_ISA": level}
    visits = [bandwidth_visit(threads)]
    visits += [our_visit(name, folder, threads, amounts, environment) for name, folder in folders.items()]
    for name, file in files.items():
        visits += peer_visits(name, file, build, threads, amounts)
    return visits


def our_visit(name: str, folder: Path, threads: int, amounts: Amounts, environment: dict[str, str]) -> Visit:
    command = [sys.executable, "-m", "benchmarks.ours", str(folder), "--threads", str(threads)]
    for option, value in asdict(amounts).items():
        command += [f"--{option.replace('_', '-')}", str(value)]
    return Visit(name, tuple(command), parse_ours, tuple(environment.items()))


def parse_ours(text: str) -> dict[str, float]:
    figures: dict[str, float] = json.loads(text)
    return figures


def peer_visits(name: str, file: Path, build: Build, threads: int, amounts: Amounts) -> list[Visit]:
    """llama-bench for a prompt and for decoding behind others, llama-batched-bench for a batch."""
    tool = build.tool("llama-bench")
    visits = [(bench_command(tool, file, threads, tokens=amounts.tokens, depth=amounts.depth), parse_bench)]
    if amounts.prompt:
        visits.append((bench_command(tool, file, threads, prompt=amounts.prompt), parse_bench))
    if amounts.batch:
        command = batch_command(
            build, file, threads, prompt=amounts.depth, tokens=amounts.batch_tokens, sequences=amounts.batch
        )
        visits.append((command, parse_batch))
    return [Visit(name, tuple(command), parse) for command, parse in visits]


def bandwidth_visit(threads: int) -> Visit:
    """How fast this machine reads memory, probed in every round."""
    program = (
        f"from gossamer.evaluation.speed.bandwidth import read_bandwidth as r; print(r({threads}).gb_per_s)"
    )
    command = (sys.executable, "-c", program)
    return Visit("bandwidth", command, lambda text: {"gb_per_s": float(text)}, compared=False)


def identity(visits: Sequence[Visit], models: Sequence[Path]) -> str:
    """Eight digits that change with what the figures depend on: commands, models, our compiled module."""
    native = native_module()
    assert native is not None and native.__file__ is not None
    parts = [Path(native.__file__).read_bytes()]
    parts += [repr((visit.command, visit.environment)).encode() for visit in visits]
    for path in models:
        file = path / "model.safetensors" if path.is_dir() else path
        status = file.stat()
        parts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return hashlib.sha256(b"\n".join(parts)).hexdigest()[:8]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress
