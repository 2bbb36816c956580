"""llama.cpp's own vocabularies with texts and the ids they must give, out of the source package of llama-cpp-python.

`python -m tests.checkpoint.vocabularies` fetches them (76 MB once, MIT licence) into the cache of `gossamer demo`.
"""

import hashlib
import shutil
import tarfile
import tempfile
from pathlib import Path

from benchmarks.llama_cpp.source import REQUIREMENT, VERSION, download
from gossamer.data.assets import default_cache
from gossamer.errors import RunError

FILES_SHA256 = "1fb4033d0f842f6b0ba6fabaa85fc8ecb7fdd196b41deb47a0248423892f38c4"
"""Of the files below one after the other."""
OURS = ("deepseek-coder", "deepseek-llm", "gpt-2", "llama-bpe", "llama-spm", "qwen2", "qwen35")
"""Of the architectures that Gossamer reads."""
OTHERS = ("falcon", "mpt", "phi-3", "refact", "starcoder")
"""Of other architectures, with tokenizers of the same kinds."""
SEPARATOR = "\n__ggml_vocab_test__\n"


def fetch_vocabularies(cache: Path | None = None) -> Path:
    """Return the folder with the files, fetched if need be; RunError if they cannot be had."""
    cache = default_cache() if cache is None else cache
    folder = cache / f"llama.cpp-vocabularies-{VERSION}"
    if folder.is_dir() and _digest(folder) == FILES_SHA256:
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as name:
        scratch = Path(name)
        unpacked = _unpack(download(scratch), scratch / "vocabularies")
        if _digest(unpacked) != FILES_SHA256:
            raise RunError(f"{REQUIREMENT}: the vocabularies in it are not the expected ones.")
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.replace(folder)
    return folder


def cases(folder: Path, name: str) -> list[tuple[str, list[int]]]:
    """Return (text, ids without start and end) of a vocabulary."""
    texts = (folder / f"{name}.gguf.inp").read_bytes().decode().split(SEPARATOR)
    lines = (folder / f"{name}.gguf.out").read_text("utf-8").split("\n")[: len(texts)]
    return [(text, [int(word) for word in line.split()]) for text, line in zip(texts, lines, strict=True)]


def _names() -> list[str]:
    return [f"{name}.gguf{end}" for name in (*OURS, *OTHERS) for end in ("", ".inp", ".out")]


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _names():
        file = folder / name
        if not file.is_file():
            return ""
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _unpack(package: Path, target: Path) -> Path:
    target.mkdir()
    wanted = {f"ggml-vocab-{name}": name for name in _names()}
    with tarfile.open(package) as archive:
        for member in archive:
            name = wanted.get(Path(member.name).name)
            content = archive.extractfile(member) if name is not None else None
            if name is not None and content is not None:
                (target / name).write_bytes(content.read())
    return target


if __name__ == "__main__":
    fetch_vocabularies()
