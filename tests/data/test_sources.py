"""Sources: every kind of file, and every way in which a file can be wrong."""

import bz2
import gzip
import json
import logging
import lzma
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gossamer.data import sources
from gossamer.data.sources import Document, read_documents
from gossamer.errors import DataError


def page(title: str, text: str, namespace: str = "0", redirect: str = "") -> str:
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns><id>1</id>{redirect}<revision><id>2</id>"
        f"<contributor><username>text</username></contributor><text xml:space='preserve'>{text}</text>"
        "</revision></page>"
    )


DUMP = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10">'
    "<siteinfo><sitename>W</sitename></siteinfo>\n"
    + page("Ada", "'''Ada''' &amp; [[Babbage]].")
    + page("Old", "#REDIRECT [[Ada]]", redirect='<redirect title="Ada" />')
    + page("Older", "#redirect [[Ada]]")
    + page("Talk:Ada", "chat", namespace="1")
    + page("Alan", "Alan.")
    + "</mediawiki>"
)


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfOne\r\ntwo \xc3\xa9\n")
    assert list(read_documents(str(path))) == [Document("One\ntwo é\n", "a.txt")]


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_files_read_like_plain_ones(tmp_path: Path, suffix: str, compress: Any) -> None:
    for name, content in (("a.txt", b"text"), ("b.jsonl", b'{"text": "text"}\n')):
        path = tmp_path / (name + suffix)
        path.write_bytes(compress(content))
        assert [document.text for document in read_documents(path)] == ["text"]


def test_json_lines_give_a_document_each_and_skip_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "id": 1}\n\n{"text": ""}\n{"text": "two"}')
    assert list(read_documents(path)) == [Document("one", "a.jsonl:1"), Document("two", "a.jsonl:4")]


def test_a_dump_gives_its_articles_cleaned(tmp_path: Path) -> None:
    for name, content in (("d.xml", DUMP.encode()), ("d.xml.bz2", bz2.compress(DUMP.encode())),
                          ("d.xml-p1-shortened.bz2", bz2.compress(DUMP.encode()))):  # fmt: skip
        path = tmp_path / name
        path.write_bytes(content)
        assert list(read_documents(path)) == [Document("Ada & Babbage.", "Ada"), Document("Alan.", "Alan")]


def test_html_files_give_their_text(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("<p>One<script>no</script></p>")
    assert list(read_documents(path)) == [Document("One", "a.html")]


def test_a_folder_is_read_recursively_in_order_and_says_what_it_skips(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.txt").write_text("three")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}')
    (tmp_path / "z.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "h.txt").write_text("no")
    with caplog.at_level(logging.WARNING):
        documents = list(read_documents(tmp_path))
    assert [(d.text, d.name) for d in documents] == [
        ("one", "a.jsonl:1"), ("two", "a.jsonl:2"), ("three", "b/c.txt"),
    ]  # fmt: skip
    assert "z.png" in caplog.text
    assert "empty.txt" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "got none"),
        ("a.txt", b" \n\t\n", "got none"),
        ("a.txt", b"ok\nbad \xff\xfa", "0xff at offset 7 .line 2"),
        ("a.txt", "hello".encode("utf-16"), "UTF-16"),
        ("a.pdf", b"%PDF", "got .pdf"),
        ("noname", b"text", "no suffix"),
        ("a.txt.gz", b"not gzip", "truncated or corrupted"),
        ("a.txt.gz", gzip.compress(b"x" * 5000, mtime=0)[:-9], "truncated or corrupted"),
        ("a.txt.bz2", bz2.compress(b"text" * 1000)[:40], "truncated or corrupted"),
        ("a.txt.bz2", b"BZh91AY&SYgarbage", "cannot be read|truncated or corrupted"),
        ("a.txt.xz", lzma.compress(b"text" * 1000)[:50], "truncated or corrupted"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl:2.*malformed JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1.*malformed JSON"),
        ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", "a.jsonl:1"),
        ("a.jsonl", b'["text"]', "got list"),
        ("a.jsonl", b'{"content": "x", "id": 3}', "'content', 'id'"),
        ("a.jsonl", b'{"text": 3}', "got int"),
        ("a.jsonl", b'{"text": "\xff"}', "expected UTF-8"),
        ("a.xml", b"<rss><channel/></rss>", "got <rss>"),
        ("a.xml", DUMP.encode()[:-30], "line 2: malformed XML"),
        ("a.xml", b"", "malformed XML"),
        ("a.xml", b"<mediawiki></mediawiki>", "got none"),
        (
            "a.xml",
            b'<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><mediawiki>&b;</mediawiki>',
            "refused",
        ),
        ("a.xml", b'<!DOCTYPE m SYSTEM "file:///etc/passwd"><mediawiki/>', "refused"),
        ("d.xml.bz2", bz2.compress(DUMP.encode())[:100], "truncated or corrupted"),
    ],
)
def test_broken_files_are_explained(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_documents(path))
    assert name in str(caught.value)


def test_a_lone_surrogate_in_json_does_not_survive(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a\ud800b\x00"}))
    assert [document.text for document in read_documents(path)] == ["ab"]


def test_a_missing_path_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_documents(tmp_path / "none.txt")
    with pytest.raises(DataError, match="expected files with text"):
        read_documents(tmp_path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "p.txt")
    with pytest.raises(DataError, match="regular file"):
        list(read_documents(tmp_path / "p.txt"))


def test_too_large_documents_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_DOCUMENT_BYTES", 100)
    for name, content in (
        ("a.txt.gz", gzip.compress(b"0" * 10_000)),
        ("b.jsonl", b'{"text": "' + b"0" * 200 + b'"}'),
        ("c.xml", DUMP.replace("Alan.", "0" * 200).encode()),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="at most 100 bytes"):
            list(read_documents(tmp_path / name))


def fake_datasets(monkeypatch: pytest.MonkeyPatch, rows: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(
        name: str, config: str | None, *, split: str, streaming: bool
    ) -> Iterable[dict[str, Any]]:
        calls.append((name, config, split, streaming))
        if name == "lost":
            raise ConnectionError("no network\nat all")
        return rows

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_data_sets_are_streamed_by_name_split_and_column(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_datasets(
        monkeypatch, [{"text": "one", "alt": "1"}, {"text": " ", "alt": "2"}, {"text": "three", "alt": "3"}]
    )
    assert [d.name for d in read_documents("owner/name")] == ["owner/name:0", "owner/name:2"]
    assert [d.text for d in read_documents("datasets:wikitext@raw:test:alt")] == ["1", "2", "3"]
    assert calls == [("owner/name", None, "train", True), ("wikitext", "raw", "test", True)]


def test_data_set_failures_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_datasets(monkeypatch, [{"content": "x"}])
    with pytest.raises(DataError, match="ConnectionError: no network"):
        list(read_documents("datasets:lost"))
    with pytest.raises(DataError, match="got columns 'content'"):
        list(read_documents("datasets:a"))

    def cut_off() -> Iterator[dict[str, Any]]:
        yield {"text": "one"}
        raise TimeoutError("the network is gone")

    fake_datasets(monkeypatch, cut_off())
    with pytest.raises(DataError, match="TimeoutError: the network is gone"):
        list(read_documents("datasets:a"))
    fake_datasets(monkeypatch, [])
    with pytest.raises(DataError, match="got none"):
        list(read_documents("datasets:a"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'gossamer\[datasets\]'"):
        list(read_documents("owner/name"))
