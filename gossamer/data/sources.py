"""Where text comes from: files, folders, MediaWiki dumps and `datasets` ids, as a stream of documents.

Knows file kinds by their suffix: plain text (.txt .text .md), JSON lines (.jsonl, field `text`), HTML (.html
.htm) and MediaWiki dumps (.xml), each also compressed (.gz .bz2 .xz); a compressed file without a known inner
suffix is recognised by its first bytes. Markup is cleaned on the way (`clean.py`); plain text stays as it is.

Nothing here trusts its input: XML with a document type is refused (that is where entity bombs live), pages
are parsed as a stream, and a single document may not exceed `MAX_DOCUMENT_BYTES`.
"""

import bz2
import gzip
import io
import itertools
import json
import logging
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.parsers import expat

from gossamer.data.clean import Kind, clean
from gossamer.errors import DataError

log = logging.getLogger(__name__)

MAX_DOCUMENT_BYTES = 1 << 30
"""A single document larger than this (after decompression) is refused."""

_COMPRESSIONS = (".gz", ".bz2", ".xz")
_PLAIN_SUFFIXES = (".txt", ".text", ".md")
_SUFFIXES = (*_PLAIN_SUFFIXES, ".jsonl", ".html", ".htm", ".xml")
_KNOWN = "plain text (.txt .text .md), .jsonl, .html, MediaWiki .xml; each also .gz, .bz2 or .xz"


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from: a file name, `file:line`, or the title of an article."""

    text: str
    name: str


def read_documents(source: str | Path) -> Iterator[Document]:
    """Return the documents of a file, a folder (recursive, sorted) or a `datasets` id.

    A data set is named `datasets:NAME[@CONFIG][:SPLIT[:COLUMN]]` (split "train" and column "text" by
    default); a bare `owner/name` works too when no such path exists. Documents without any text are left out.

    Raises DataError when the source is missing, empty, undecodable, truncated or malformed. A missing path is
    reported at once, the contents while iterating.
    """
    name = os.fspath(source)
    if name.startswith("datasets:"):
        return _read_dataset(name.removeprefix("datasets:"))
    path = Path(name)
    if not path.exists():
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@[\w.-]+)?(:\w+){0,2}", name) and not name.endswith(_SUFFIXES):
            return _read_dataset(name)
        raise DataError(
            f"{name}: no such file or folder. Give a path that exists, or datasets:NAME for a data set."
        )
    if path.is_dir():
        return _read_folder(path)
    return _not_empty(_read_file(path, path.name), name)


def _not_empty(documents: Iterator[Document], where: str) -> Iterator[Document]:
    count = 0
    for document in documents:
        count += 1
        yield document
    if count == 0:
        raise DataError(
            f"{where}: expected text, got none (empty, or only white space). Give a source with text in it."
        )


def _read_folder(folder: Path) -> Iterator[Document]:
    readable: list[Path] = []
    skipped: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            known = _suffixes(path)[0] in _SUFFIXES and path.is_file() and not name.startswith(".")
            (readable if known else skipped).append(path)
    if skipped:
        log.warning(
            "%s: skipped %d files that are not text, the first is %s", folder, len(skipped), skipped[0].name
        )
    if not readable:
        raise DataError(f"{folder}: expected files with text ({_KNOWN}), got none. Give another folder.")

    def documents() -> Iterator[Document]:
        for path in sorted(readable):
            found = False
            for document in _read_file(path, path.relative_to(folder).as_posix()):
                found = True
                yield document
            if not found:
                log.warning("%s: skipped, it holds no text", path)

    return _not_empty(documents(), str(folder))


def _suffixes(path: Path) -> tuple[str, str]:
    """Return (suffix of the kind, suffix of the compression), lower case, "" when there is none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes[-1] if suffixes and suffixes[-1] in _COMPRESSIONS else ""
    if compression:
        suffixes.pop()
    return (suffixes[-1] if suffixes else ""), compression


def _read_file(path: Path, name: str) -> Iterator[Document]:
    """Yield the documents of one file; every way in which reading can fail becomes a DataError."""
    kind, compression = _suffixes(path)
    if kind not in _SUFFIXES and not compression:
        raise DataError(f"{path}: expected {_KNOWN}; got {kind or 'no suffix'}. Rename or convert the file.")
    if not path.is_file():
        raise DataError(f"{path}: expected a regular file, got something else (a device or a pipe).")
    try:
        with _opened(path, compression) as stream:
            yield from _read_stream(stream, path, name, kind if kind in _SUFFIXES else _sniffed(stream))
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: {compression} file is truncated or corrupted ({error}). Fetch it again."
        ) from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}). Check the file and its rights."
        ) from error


def _opened(path: Path, compression: str) -> io.BufferedReader:
    """A buffered stream of the decompressed bytes."""
    if compression == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"))
    if compression == ".bz2":
        return io.BufferedReader(bz2.open(path, "rb"))
    if compression == ".xz":
        return io.BufferedReader(lzma.open(path, "rb"))
    return path.open("rb")


def _sniffed(stream: io.BufferedReader) -> str:
    """The kind of a compressed file with no inner suffix, from its first bytes."""
    head = stream.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith((b"<mediawiki", b"<?xml")):
        return ".xml"
    return ".jsonl" if head.startswith(b"{") else ".txt"


def _read_stream(stream: IO[bytes], path: Path, name: str, kind: str) -> Iterator[Document]:
    if kind == ".jsonl":
        yield from _read_json_lines(stream, path, name)
    elif kind == ".xml":
        yield from _read_mediawiki(stream, path)
    else:
        yield from _document(
            _decoded(_all_bytes(stream, path), path), name, "html" if "htm" in kind else "plain"
        )


def _document(text: str, name: str, kind: Kind) -> Iterator[Document]:
    """Yield the cleaned document, or nothing when no text is left."""
    cleaned = clean(text, kind)
    if cleaned and not cleaned.isspace():
        yield Document(cleaned, name)


def _all_bytes(stream: IO[bytes], path: Path) -> bytes:
    content = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise _too_large(path, "split the file into smaller ones, or use .jsonl with one document a line")
    return content


def _too_large(where: object, advice: str) -> DataError:
    return DataError(
        f"{where}: expected documents of at most {MAX_DOCUMENT_BYTES:,} bytes, got a larger one: {advice}."
    )


def _decoded(content: bytes, where: object) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{where}: expected UTF-8, got UTF-16. Convert it, for example: iconv -f UTF-16 -t UTF-8."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{where}: expected UTF-8, got byte 0x{content[error.start]:02x} at offset {error.start} "
            f"(line {line}). Convert the file to UTF-8, for example with iconv."
        ) from error


# JSON lines -------------------------------------------------------------------------------------------------


def _read_json_lines(stream: IO[bytes], path: Path, name: str) -> Iterator[Document]:
    number = 0
    while line := stream.readline(MAX_DOCUMENT_BYTES + 1):
        number += 1
        if len(line) > MAX_DOCUMENT_BYTES:
            raise _too_large(f"{path}:{number}", "one line of .jsonl is one document")
        if not line.isspace():
            yield from _document(_json_text(line, f"{path}:{number}"), f"{name}:{number}", "plain")


def _json_text(line: bytes, where: str) -> str:
    text = _decoded(line, where)
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        raise DataError(f"{where}: expected one JSON object a line, got malformed JSON ({error}).") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object with a field 'text', got {type(record).__name__}.")
    if "text" not in record:
        fields = ", ".join(map(repr, list(record)[:12])) or "no fields"
        raise DataError(
            f"{where}: expected a field 'text', got {fields}. Rename the field that holds the text."
        )
    if not isinstance(record["text"], str):
        raise DataError(f"{where}: expected a string in 'text', got {type(record['text']).__name__}.")
    return record["text"]


# MediaWiki dumps --------------------------------------------------------------------------------------------


class _PageCollector:
    """Collects (title, namespace, is_redirect, text) of each page from expat's events; keeps one page at a
    time."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.pages: list[tuple[str, str, bool, str]] = []
        self.depth = 0
        self.size = 0
        self.fields: dict[str, list[str]] = {}
        self.redirect = False
        self.open_field: list[str] | None = None

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self.depth == 0 and name != "mediawiki":
            raise DataError(f"{self.where}: expected a MediaWiki dump (<mediawiki>), got <{name[:40]}>.")
        self.depth += 1
        if name == "page":
            self.fields, self.redirect, self.size = {"title": [], "ns": [], "text": []}, False, 0
        elif name == "redirect":
            self.redirect = True
        self.open_field = self.fields.get(name)
        if self.open_field is not None:
            self.open_field.clear()  # a page with several revisions: the last one counts

    def characters(self, data: str) -> None:
        if self.open_field is not None:
            self.size += len(data)
            if self.size > MAX_DOCUMENT_BYTES:
                raise _too_large(self.where, "a page of this size is not an article")
            self.open_field.append(data)

    def end(self, name: str) -> None:
        self.depth -= 1
        self.open_field = None
        if name == "page" and self.fields:
            title, namespace, text = ("".join(self.fields[field]) for field in ("title", "ns", "text"))
            self.pages.append((title.strip(), namespace.strip(), self.redirect, text))
            self.fields = {}

    def refuse_doctype(self, *_: object) -> None:
        raise DataError(
            f"{self.where}: XML with a document type is refused (it can define entities that explode)."
        )


def _read_mediawiki(stream: IO[bytes], path: Path) -> Iterator[Document]:
    """Yield the articles (namespace 0, no redirects) of a dump, cleaned, one page in memory at a time.

    Layout: https://www.mediawiki.org/xml/export-0.10.xsd.
    """
    collector = _PageCollector(path)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = collector.start
    parser.EndElementHandler = collector.end
    parser.CharacterDataHandler = collector.characters
    parser.StartDoctypeDeclHandler = collector.refuse_doctype
    parser.EntityDeclHandler = collector.refuse_doctype
    while True:
        chunk = stream.read(1 << 16)
        try:
            parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
            raise DataError(
                f"{path}, line {error.lineno}: malformed XML ({expat.errors.messages[error.code]}). "
                "The dump is truncated or damaged: fetch it again."
            ) from error
        for title, namespace, redirect, text in collector.pages:
            if (
                namespace in ("", "0")
                and not redirect
                and not text.lstrip()[:9].upper().startswith("#REDIRECT")
            ):
                yield from _document(text, title, "wiki")
        collector.pages.clear()
        if not chunk:
            return


# Data sets of the hub ---------------------------------------------------------------------------------------


def _read_dataset(identifier: str) -> Iterator[Document]:
    """Yield the rows of a data set through the optional package `datasets`, streamed."""
    name, _, rest = identifier.partition(":")
    split, _, column = rest.partition(":")
    name, _, config = name.partition("@")
    split, column = split or "train", column or "text"
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{identifier}: no such file or folder, and reading it as a data set needs the package "
            "'datasets' (pip install 'gossamer[datasets]')."
        ) from error
    try:
        rows = iter(datasets.load_dataset(name, config or None, split=split, streaming=True))
        first = next(rows, None)
    except Exception as error:  # the package raises many kinds: no network, unknown name, unknown split
        raise _unreadable_dataset(identifier, error) from error
    if first is None:
        raise DataError(f"{identifier}: expected rows in split {split!r}, got none.")
    if not isinstance(first.get(column), str):
        raise DataError(
            f"{identifier}: expected text in column {column!r}, got columns {', '.join(map(repr, first))}. "
            f"Name the column: datasets:{name}:{split}:COLUMN."
        )

    def documents() -> Iterator[Document]:
        yield from _document(first[column], f"{name}:0", "plain")
        for number in itertools.count(1):
            try:
                row = next(rows, None)
            except Exception as error:
                raise _unreadable_dataset(identifier, error) from error
            if row is None:
                return
            yield from _document(row[column] or "", f"{name}:{number}", "plain")

    return _not_empty(documents(), identifier)


def _unreadable_dataset(identifier: str, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [""])[0][:200]
    return DataError(
        f"{identifier}: no such file or folder, and as a data set it cannot be read "
        f"({type(error).__name__}: {reason}). "
        "Check the name, the split and the network, or give a local file."
    )
