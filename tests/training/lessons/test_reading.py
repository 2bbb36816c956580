"""Reading lessons: what is damaged, or not meant for this student, is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import numpy as safetensors

import gossamer
from gossamer.errors import FormatError, UsageError
from gossamer.training.lessons import reading
from gossamer.training.lessons import teach as teaching
from gossamer.training.lessons.reading import Lessons
from gossamer.training.lessons.shards import write_shard
from tests.models import tiny_tokenizer


@pytest.fixture(scope="module")
def written(parent: Callable[[str], Path], text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven windows in four shards. Not to be changed."""
    out = tmp_path_factory.mktemp("lessons") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching, "SHARD_TOKENS", 64)
        gossamer.teach(parent("llama"), text, out, length=32, windows=7, k=20)
    return out


@pytest.fixture
def lessons_folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "lessons"))


def read_all(folder: Path) -> None:
    lessons = Lessons(folder)
    lessons.batch(range(len(lessons)))


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "lessons.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_windows_come_in_any_order_and_only_some_shards_are_kept(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SHARDS_IN_MEMORY", 2)
    lessons = Lessons(written)
    whole = lessons.batch(range(7))
    mixed = lessons.batch([6, 0, 3, 3, 1])
    assert len(lessons._shards) == 2
    assert torch.equal(mixed.ids_BL, whole.ids_BL[[6, 0, 3, 3, 1]])
    assert torch.equal(mixed.lesson.ids_BK, whole.lesson.ids_BK[[6, 0, 3, 3, 1]])
    assert mixed.ids_BL.shape == (5, 32)
    assert len({tuple(row) for row in whole.ids_BL.tolist()}) == 7
    for index in (-1, 7):
        with pytest.raises(IndexError):
            lessons.batch([index])


def test_a_student_of_another_vocabulary_or_tokenizer_is_refused_with_the_reason(written: Path) -> None:
    lessons = Lessons(written)
    lessons.check_student(260, tiny_tokenizer())
    lessons.check_student(260, None)
    with pytest.raises(UsageError, match=r"my-student: its vocabulary has 300 entries.*tiny-llama.*has 260"):
        lessons.check_student(300, tiny_tokenizer(), "my-student")
    with pytest.raises(UsageError, match="opens texts in another way"):
        lessons.check_student(260, tiny_tokenizer("<bos> $A"))
    other = tiny_tokenizer()
    other.add_tokens(["spider"])
    with pytest.raises(UsageError, match="the same id is another token"):
        lessons.check_student(260, other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"format_version": 2}, "format_version"), ({"count": 261}, "exceeds"), ({"count": -1}, "count"),
     ({"windows": 8}, "7 of 8"), ({"windows": 1e9}, "windows"), ({"level_bits": 40}, "level_bits"),
     ({"shards": [{"file": "../../etc/passwd", "windows": 7, "sha256": "0" * 64}]}, "shards.0.file"),
     ({"kind": "dreams"}, "kind"), ({"more": 1}, "more"), ({"length": "32"}, "length"), ({"teachers": []}, "teachers")],
)  # fmt: skip
def test_a_manifest_that_cannot_be_meant_is_refused(
    changes: dict[str, Any], words: str, lessons_folder: Path
) -> None:
    change_manifest(lessons_folder, **changes)
    with pytest.raises(FormatError, match=words):
        Lessons(lessons_folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a": 1}'])
def test_a_garbled_manifest_is_refused(content: bytes, lessons_folder: Path) -> None:
    (lessons_folder / "lessons.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"lessons\.json"):
        Lessons(lessons_folder)


def test_a_folder_without_lessons_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FormatError, match="gossamer teach"):
            Lessons(folder)


def test_damaged_and_missing_shards_are_refused(lessons_folder: Path) -> None:
    shard = lessons_folder / "lessons-00002.safetensors"
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[-40] ^= 1
    for content, words in (
        (bytes(flipped), "SHA-256"),
        (whole[:-1], "truncated"),
        (b"", "truncated"),
        (None, "missing"),
    ):
        if content is None:
            shard.unlink()
        else:
            shard.write_bytes(content)
        with pytest.raises(FormatError, match=rf"lessons-00002.*{words}"):
            read_all(lessons_folder)


def test_shards_whose_tensors_are_not_as_declared_are_refused_though_their_hash_is_right(
    lessons_folder: Path,
) -> None:
    manifest = json.loads((lessons_folder / "lessons.json").read_text())
    good = safetensors.load_file(lessons_folder / "lessons-00001.safetensors")

    def replaced(**arrays: np.ndarray | None) -> None:
        changed = {name: value for name, value in {**good, **arrays}.items() if value is not None}
        record = write_shard(lessons_folder, 1, changed)
        change_manifest(lessons_folder, shards=[record.model_dump(), *manifest["shards"][1:]])
        read_all(lessons_folder)

    replaced()
    for arrays, words in (
        ({"span": None}, "expected the tensors"),
        ({"span": good["span"].astype(np.float32)}, "expected the tensors"),
        ({"code": good["code"][:, :, :-1].copy()}, "expected the tensors"),
        ({"extra": good["span"]}, "expected the tensors"),
        ({"ids": np.full_like(good["ids"], 260)}, "below 260"),
        ({"code": np.full_like(good["code"], 255)}, "another number"),
        ({"log_rest": np.full_like(good["log_rest"], np.nan)}, "masses of the rest"),
    ):
        with pytest.raises(FormatError, match=words):
            replaced(**arrays)
