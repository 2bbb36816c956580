"""llama.cpp built from its source, once, into a cache: for this machine as its own instructions say, and for AVX2.

    python -m benchmarks.llama_cpp.build

`best` is `GGML_NATIVE=ON`, which is llama.cpp's default. A build counts when a small run of it ends well: where the
native one dies, of an illegal instruction as a rule, the next smaller set of instructions is built, and the tables name
it. `avx2` has no AVX-512, no VNNI and no AMX, for the stand-in of a machine without them.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.llama_cpp.source import VERSION, fetch_source
from gossamer.data.assets import default_cache, fetch_demo_assets
from gossamer.errors import RunError
from gossamer.evaluation.speed.llama_cpp import bench_command
from gossamer.evaluation.speed.surroundings import cpu_model, num_cores
from gossamer.files import write_json

TOOLS = ("llama-bench", "llama-batched-bench", "llama-quantize", "logits")
AVX2 = {"SSE42": "sse4_2", "AVX": "avx", "AVX2": "avx2", "FMA": "fma", "F16C": "f16c", "BMI2": "bmi2"}
"""llama.cpp's name of an instruction set and the processor's."""
LARGER = {
    "AVX_VNNI": "avx_vnni", "AVX512": "avx512f", "AVX512_VBMI": "avx512vbmi", "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
}  # fmt: skip
"""AMX is not among them: it is what dies where a machine shows tiles and does not lend them."""


WHOLE = "whole"
"""A file in the folder of a build in which everything was compiled."""
OURS = tuple(Path(__file__).parent / name for name in ("CMakeLists.txt", "logits.cpp"))


@dataclass(frozen=True, slots=True)
class Build:
    """A build that runs."""

    folder: str
    flags: tuple[str, ...]
    """What CMake was given beside -DCMAKE_BUILD_TYPE=Release."""
    died: tuple[str, ...]
    """Larger sets of flags that were tried before, and how their run ended."""

    def tool(self, name: str) -> Path:
        return Path(self.folder) / "bin" / name


def built(level: str, say: Callable[[str], None], cache: Path | None = None) -> Build:
    """Return the build for `best` or `avx2`; made if the cache has none for this processor.

    Raises RunError if nothing can be built, or nothing that was built runs.
    """
    cache = default_cache() / f"llama.cpp-{VERSION}" if cache is None else cache
    key = digest(f"{cpu_model()} {sorted(processor_flags())}", *(file.read_text("utf-8") for file in OURS))
    record = cache / f"{level}-{key}.json"
    if record.is_file():
        stored = json.loads(record.read_text(encoding="utf-8"))
        build = Build(stored["folder"], tuple(stored["flags"]), tuple(stored["died"]))
        if all(build.tool(name).is_file() for name in TOOLS):
            return build
    died: list[str] = []
    for flags in candidates(level, processor_flags()):
        build = Build(str(cache / f"build-{key}-{digest(*flags)}"), flags, tuple(died))
        whole = [folder for folder in cache.glob(f"build-{key}-*") if (folder / WHOLE).is_file()]
        compile_tools(fetch_source(cache, say), build, whole[0] if whole else None, say)
        ending = small_run(build)
        if ending is None:
            write_json(record, asdict(build))
            return build
        died.append(f"{' '.join(flags)}: {ending}")
        say(f"llama.cpp with {died[-1]}")
    raise RunError(f"llama.cpp: nothing that was built for {level} runs here: {'; '.join(died)}")


def digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def processor_flags() -> set[str]:
    """Return what /proc/cpuinfo says that the processor can do; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def candidates(level: str, known: set[str]) -> list[tuple[str, ...]]:
    """Return the sets of flags to be tried for a level, the largest first."""
    small = ("-DGGML_NATIVE=OFF", *(f"-DGGML_{name}=ON" for name in AVX2))
    if level == "avx2":
        return [small]
    more = tuple(f"-DGGML_{name}=ON" for name, flag in LARGER.items() if flag in known)
    sets: list[tuple[str, ...]] = [("-DGGML_NATIVE=ON",)]
    if set(AVX2.values()) <= known:
        sets += [(*small, *more), small] if more else [small]
    return sets


def compile_tools(source: Path, build: Build, whole: Path | None, say: Callable[[str], None]) -> None:
    """Configure and compile; a line is said for every tenth that is done.

    Sets of instructions matter to one of llama.cpp's libraries only, ggml-cpu. Where there is a `whole` build, the rest
    is copied from there; its files find their libraries beside themselves.
    """
    say(f"building llama.cpp ({' '.join(build.flags)}): minutes")
    cmake, ninja = program("cmake"), program("ninja")
    if cmake is None:
        raise RunError("llama.cpp cannot be built: there is no cmake. `make bench` installs it.")
    folder = Path(build.folder)
    (folder / "source").mkdir(parents=True, exist_ok=True)
    for file in OURS:  # so that another clone of this repository can go on with the same cache
        shutil.copy(file, folder / "source")
    configure = [cmake, "-S", str(folder / "source"), "-B", str(folder), f"-DLLAMA_CPP={source}"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON", *build.flags]
    if ninja is not None:
        configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    run_told(configure, lambda line: None)
    last = -1

    def tell(line: str) -> None:
        nonlocal last
        tenth = tenths(line)
        if tenth is not None and tenth > last:
            last = tenth
            say(f"building llama.cpp: {10 * tenth} %")

    targets = TOOLS if whole is None else ("ggml-cpu",)
    run_told([cmake, "--build", build.folder, "--parallel", str(num_cores()), "--target", *targets], tell)
    if whole is None:
        (folder / WHOLE).touch()
        return
    for file in (whole / "bin").iterdir():
        if not (folder / "bin" / file.name).exists():
            shutil.copy2(file, folder / "bin", follow_symlinks=False)


def program(name: str) -> str | None:
    """Return a program that lies beside Python or on the PATH."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def tenths(line: str) -> int | None:
    """Return how many tenths are done by a line of ninja ([12/300]) or make ([ 40%]); None for other lines."""
    if found := re.match(r"\[(\d+)/(\d+)\]", line):
        return 10 * int(found[1]) // int(found[2])
    if found := re.match(r"\[ *(\d+)%\]", line):
        return int(found[1]) // 10
    return None


def run_told(command: list[str], tell: Callable[[str], None]) -> None:
    """Run a command and tell each of its lines; RunError with its last ones if it fails."""
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            tell(line)
    if process.returncode:
        raise RunError(f"{' '.join(command)} failed:\n{''.join(lines[-20:])}")


def small_run(build: Build) -> str | None:
    """Return None if llama-bench reads a prompt and writes on the demo's model, else how it ended."""
    file = fetch_demo_assets().model_gguf
    command = bench_command(build.tool("llama-bench"), file, 1, prompt=64, tokens=2)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return f"dies of {signal.Signals(-done.returncode).name}"
    return f"ends with exit code {done.returncode}" if done.returncode else None


if __name__ == "__main__":
    for each in ("best", "avx2"):
        built(each, lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201 - progress
