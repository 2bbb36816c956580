"""llama.cpp's source: the folder that the source package of llama-cpp-python carries, by its hash."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from gossamer.errors import RunError

VERSION = "0.3.36"
REQUIREMENT = f"llama-cpp-python=={VERSION}"
COMMIT = "0c1e57098"
"""Of llama.cpp, as the package's list of changes has it."""
PACKAGE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"


def fetch_source(cache: Path, say: Callable[[str], None]) -> Path:
    """Return the folder with llama.cpp's CMakeLists.txt, fetched if need be (76 MB); RunError if it cannot be had."""
    folder = cache / "source"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as name:
        say(f"fetching the source package of {REQUIREMENT}")
        unpack(download(Path(name)), Path(name) / "source")
        shutil.move(Path(name) / "source", folder)
    return folder


def download(scratch: Path) -> Path:
    """Return the source package, downloaded by pip into `scratch` and compared with its hash.

    It is not built: pip wants its metadata, which its build backend, installed by `make`, tells without compiling.
    """
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-binary=:all:", "--no-build-isolation", f"--dest={scratch}"]
    command = [*pip, "download", *options, REQUIREMENT]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        reason = (finished.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise RunError(f"{REQUIREMENT} cannot be downloaded: {reason}")
    packages = list(scratch.glob("*.tar.gz"))
    if len(packages) != 1 or hashlib.sha256(packages[0].read_bytes()).hexdigest() != PACKAGE_SHA256:
        raise RunError(f"{REQUIREMENT}: pip gave another file than the expected one.")
    return packages[0]


def unpack(package: Path, target: Path) -> None:
    """Write what the package holds of llama.cpp to `target`."""
    with tarfile.open(package) as archive:
        members = [member for member in archive if member.name.startswith(INSIDE)]
        for member in members:
            member.name = member.name.removeprefix(INSIDE)
        archive.extractall(target, members, filter="data")
