"""The verb `teach`: what it writes is what the teacher says, however often it was stopped."""

import errno
import itertools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import gossamer
from gossamer.checkpoint.source import open_model
from gossamer.errors import DataError, DiskError, UsageError
from gossamer.training.lessons import folder as folders
from gossamer.training.lessons import shards
from gossamer.training.lessons import teach as teaching
from gossamer.training.lessons.divergence import Samples, TopK, kl
from gossamer.training.lessons.reading import Lessons
from gossamer.training.lessons.teach import plan_lessons
from tests.conftest import Case
from tests.models import save_tiny, tiny_model, tiny_tokenizer

Parent = Callable[[str], Path]
SMALL: dict[str, Any] = {"length": 32, "windows": 6}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows of 32 tokens in a shard."""
    monkeypatch.setattr(teaching, "SHARD_TOKENS", 64)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def logits_of(kind: str, ids_BL: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return tiny_model(kind)(ids_BL).logits.clone()


# ---- what is written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "engine"), [("llama", "native"), ("llama", "torch"), ("opt", "auto")])
def test_lessons_hold_what_the_teacher_says(
    kind: str, engine: str, parent: Parent, text: Path, tmp_path: Path
) -> None:
    taught = gossamer.teach(parent(kind), text, tmp_path / "out", k=20, engine=engine, **SMALL)
    lessons = Lessons(tmp_path / "out")
    assert len(lessons) == taught.plan.windows == 6
    ids_BL, lesson = lessons.batch(range(6))
    assert isinstance(lesson, TopK)
    logits_BLV = logits_of(kind, ids_BL)
    assert float(kl(logits_BLV, lesson).max()) < 2e-3
    probs_BLV = logits_BLV.softmax(-1)
    kept_BL = probs_BLV.gather(-1, lesson.ids_BK).sum(-1)
    torch.testing.assert_close(kept_BL, probs_BLV.topk(20).values.sum(-1), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(1 - kept_BL, lesson.log_rest_B.exp(), atol=1e-3, rtol=1e-2)


def test_a_compressed_folder_teaches_what_it_says_itself(
    compressed: Callable[[str], Case], text: Path, tmp_path: Path
) -> None:
    folder = compressed("llama").folder
    gossamer.teach(folder, text, tmp_path / "out", k=260, **SMALL)
    lessons = Lessons(tmp_path / "out")
    assert lessons.manifest.teachers[0].sha256 == open_model(folder).fingerprint()
    ids_BL, lesson = lessons.batch(range(6))
    with torch.inference_mode():
        logits_BLV = gossamer.load(folder).model(ids_BL).logits
    assert float(kl(logits_BLV, lesson).max()) < 2e-3
    assert float(kl(logits_of("llama", ids_BL), lesson).mean()) > 0.01


def test_samples_are_those_of_the_teacher(parent: Parent, text: Path, tmp_path: Path) -> None:
    gossamer.teach(parent("llama"), text, tmp_path / "out", samples=4000, **SMALL)
    ids_BL, lesson = Lessons(tmp_path / "out").batch([4, 1])
    assert isinstance(lesson, Samples)
    logits_BLV = logits_of("llama", ids_BL)
    counts_BLV = torch.zeros_like(logits_BLV)
    counts_BLV.scatter_add_(-1, lesson.ids_BK, torch.ones_like(lesson.ids_BK, dtype=torch.float32) / 4000)
    assert float((counts_BLV - logits_BLV.softmax(-1)).abs().max()) < 5 * 0.5 / 4000**0.5
    assert float(kl(logits_BLV, lesson).abs().mean()) < 0.05


def test_two_teachers_give_the_mean_of_their_probabilities(
    parent: Parent, text: Path, tmp_path: Path
) -> None:
    save_tiny("llama", tmp_path / "second", seed=1)
    gossamer.teach(parent("llama"), text, tmp_path / "out", others=[tmp_path / "second"], k=260, **SMALL)
    lessons = Lessons(tmp_path / "out")
    ids_BL, lesson = lessons.batch([0])
    assert isinstance(lesson, TopK)
    with torch.inference_mode():
        other_BLV = tiny_model("llama", seed=1)(ids_BL).logits
    mean_BLV = (logits_of("llama", ids_BL).softmax(-1) + other_BLV.softmax(-1)) / 2
    assert float(kl(mean_BLV.log(), lesson).max()) < 1e-3
    assert float(kl(other_BLV, lesson).mean()) > 0.1
    assert [teacher.name for teacher in lessons.manifest.teachers] == ["tiny-llama", "second"]


def test_the_files_are_plain_safetensors_and_the_manifest_says_from_what(
    parent: Parent, text: Path, tmp_path: Path, small_shards: None
) -> None:
    taught = gossamer.teach(parent("llama"), [text, text], tmp_path / "out", seed=3, **SMALL)
    manifest = json.loads((tmp_path / "out/lessons.json").read_text())
    assert manifest["teachers"][0]["sha256"] == open_model(parent("llama")).fingerprint()
    assert (manifest["length"], manifest["windows"], manifest["seed"], manifest["count"]) == (32, 6, 3, 50)
    assert manifest["text"] == ["spiders.txt"] * 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"lessons-{number:05d}.safetensors" for number in (1, 2, 3)),
        "lessons.json",
    ]
    with safe_open(tmp_path / "out/lessons-00002.safetensors", "np") as file:
        assert {name: file.get_tensor(name).shape[:2] for name in file.keys()} == dict.fromkeys(  # noqa: SIM118
            ("ids", "code", "log_rest", "span"), (2, 32)
        )
        assert [str(file.get_tensor(name).dtype) for name in ("ids", "span")] == ["uint16", "float16"]
    assert taught.size_bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    stream = tiny_tokenizer()(text.read_text())["input_ids"]
    ids_BL, _ = Lessons(tmp_path / "out").batch(range(6))
    joined = "".join(map(chr, stream))
    places = [joined.find("".join(map(chr, ids_L))) for ids_L in ids_BL.tolist()]
    assert min(places) >= 0
    assert all(abs(one - other) >= 32 for one, other in itertools.combinations(places, 2))


def test_all_files_together_take_at_most_120_bytes_a_token_at_k_50(text: Path, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "large", vocab_size=49_152, hidden_size=16, num_attention_heads=1,
              num_key_value_heads=1, intermediate_size=32)  # fmt: skip
    taught = gossamer.teach(tmp_path / "large", text, tmp_path / "out", length=128, windows=16)
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert size == taught.size_bytes
    assert 117 < size / (16 * 128) <= 120
    _ids_BL, lesson = Lessons(tmp_path / "out").batch([0])
    assert int(lesson.ids_BK.max()) > 40_000


def test_windows_open_with_the_start_token(parent: Parent, text: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parent("llama"), tmp_path / "model"))
    tiny_tokenizer("<bos> $A").save_pretrained(folder)
    gossamer.teach(folder, text, tmp_path / "out", **SMALL)
    lessons = Lessons(tmp_path / "out")
    assert lessons.manifest.start == [257]
    assert lessons.batch(range(6)).ids_BL[:, 0].tolist() == [257] * 6


# ---- stopped and resumed ------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(
    parent: Parent, text: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"samples": 9, **SMALL}
    gossamer.teach(parent("llama"), text, tmp_path / "whole", **arguments)
    seen: list[tuple[int, int]] = []

    def stop(what: str, done: int, total: int) -> None:
        if what == teaching.TEACHING and done == 5 * 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        gossamer.teach(parent("llama"), text, tmp_path / "out", progress=stop, **arguments)
    assert "4 of 6 windows are kept" in stopped.value.__notes__[0]
    with pytest.raises(UsageError, match="not finished, 4 of 6"):
        Lessons(tmp_path / "out")
    (tmp_path / "out/.lessons-00003.safetensors.abc").write_bytes(b"half")
    taught = gossamer.teach(
        parent("llama"), text, tmp_path / "out", **arguments,
        progress=lambda what, done, total: seen.append((done, total)) if what == teaching.TEACHING else None,
    )  # fmt: skip
    assert taught.resumed_windows == 4
    assert seen == [(160, 192), (192, 192)]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list((tmp_path / "out").glob(".*"))


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from gossamer.training.lessons import shards, teach as teaching
teaching.SHARD_TOKENS = 64
put_in_place = shards.written_whole
def killed(path):
    if path.name == "lessons-00002.safetensors":
        path.with_name("." + path.name + ".x").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return put_in_place(path)
shards.written_whole = killed
teaching.teach(sys.argv[1], sys.argv[2], sys.argv[3], length=32, windows=6)
"""


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    parent: Parent, text: Path, tmp_path: Path, small_shards: None
) -> None:
    command = [sys.executable, "-c", KILLED, str(parent("llama")), str(text), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(contents(tmp_path / "out")) == ["lessons-00001.safetensors"]
    assert gossamer.teach(parent("llama"), text, tmp_path / "out", **SMALL).resumed_windows == 2
    gossamer.teach(parent("llama"), text, tmp_path / "whole", **SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_full_disk_is_told_and_what_is_complete_stays(
    parent: Parent, text: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> Any:
        if path.name == "lessons-00002.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path)

    real = shards.written_whole
    with monkeypatch.context() as patch:
        patch.setattr(shards, "written_whole", full)
        with pytest.raises(DiskError, match=r"lessons-00002.*the disk is full") as told:
            gossamer.teach(parent("llama"), text, tmp_path / "out", **SMALL)
    assert "2 of 6 windows are kept" in told.value.__notes__[0]
    assert gossamer.teach(parent("llama"), text, tmp_path / "out", **SMALL).resumed_windows == 2


def test_a_run_that_wrote_no_lesson_leaves_nothing(
    parent: Parent, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "written_whole", full)
    (tmp_path / "empty").mkdir()
    for out in ("new", "empty"):
        with pytest.raises(DiskError, match="the disk is full") as told:
            gossamer.teach(parent("llama"), text, tmp_path / out, **SMALL)
        assert not hasattr(told.value, "__notes__")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize(
    ("change", "word"),
    [({"seed": 1}, "seed"), ({"length": 33}, "length"), ({"k": 49}, "count"), ({"samples": 50}, "kind"),
     ({"engine": "torch"}, "teachers"), ({"windows": 7}, "windows"), ({"activations": "int8"}, "teachers")],
)  # fmt: skip
def test_a_begun_folder_is_refused_to_another_command(
    change: dict[str, Any], word: str, parent: Parent, text: Path, tmp_path: Path, small_shards: None,
) -> None:  # fmt: skip
    begin(parent("llama"), text, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UsageError, match=rf"unfinished lessons of another command.*\b{word} was"):
        gossamer.teach(parent("llama"), text, tmp_path / "out", **{**SMALL, **change})
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_begun_folder_is_refused_to_another_text_and_another_teacher(
    parent: Parent, text: Path, tmp_path: Path, small_shards: None
) -> None:
    begin(parent("llama"), text, tmp_path / "out")
    (tmp_path / "other.txt").write_text(text.read_text().replace("spider", "beetle"))
    with pytest.raises(UsageError, match="text_sha256 was"):
        gossamer.teach(parent("llama"), tmp_path / "other.txt", tmp_path / "out", **SMALL)
    with pytest.raises(UsageError, match="teachers was"):
        gossamer.teach(parent("mistral"), text, tmp_path / "out", **SMALL)
    shutil.copy(text, tmp_path / "moved.txt")
    assert (
        gossamer.teach(parent("llama"), tmp_path / "moved.txt", tmp_path / "out", **SMALL).resumed_windows
        == 2
    )


def begin(model: Path, text: Path, out: Path) -> None:
    """Teach two windows of six, and stop."""

    def stop(what: str, done: int, total: int) -> None:
        if what == teaching.TEACHING and done == 3 * 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gossamer.teach(model, text, out, progress=stop, **SMALL)


# ---- refused ------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_is_not_touched(parent: Parent, text: Path, tmp_path: Path) -> None:
    gossamer.teach(parent("llama"), text, tmp_path / "out", **SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("dear")
    (tmp_path / "empty").mkdir()
    for out, words in (("out", "finished lessons"), ("full", "other things"), ("full/letter.txt", "no folder"),
                       ("none/out", "does not exist")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            gossamer.teach(parent("llama"), text, tmp_path / out, **SMALL)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]
    gossamer.teach(parent("llama"), text, tmp_path / "empty", **SMALL)


def test_two_runs_do_not_write_one_folder(parent: Parent, text: Path, tmp_path: Path) -> None:
    def second(what: str, done: int, total: int) -> None:
        if what == teaching.TEACHING and done == 32:
            with pytest.raises(UsageError, match="another run is writing"):
                gossamer.teach(parent("llama"), text, tmp_path / "out", **SMALL)

    gossamer.teach(parent("llama"), text, tmp_path / "out", progress=second, **SMALL)
    assert folders.LOCK not in {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"k": 261}, "1 to 260"), ({"k": 0}, "1 to 260"), ({"samples": 0}, "samples 0"), ({"k": 5, "samples": 5}, "both"),
     ({"length": 257}, "257: expected 2 to 256"), ({"length": 1}, "length 1"), ({"windows": 0}, "windows 0"),
     ({"seed": -1}, "seed -1"), ({"engine": "steam"}, "steam"), ({"activations": "int4"}, "int4")],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(
    settings: dict[str, Any], words: str, parent: Parent, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        gossamer.teach(parent("llama"), text, tmp_path / "out", **{**SMALL, **settings})
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_teach_are_refused(parent: Parent, text: Path, tmp_path: Path) -> None:
    for kind in ("bert", "t5"):
        with pytest.raises(UsageError, match="causal language model"):
            gossamer.teach(parent(kind), text, tmp_path / "out")
    save_tiny("llama", tmp_path / "wide", vocab_size=300)
    with pytest.raises(UsageError, match="260 and 300 entries"):
        gossamer.teach(parent("llama"), text, tmp_path / "out", others=[tmp_path / "wide"])
    other = Path(shutil.copytree(parent("llama"), tmp_path / "other"))
    tiny_tokenizer("<bos> $A").save_pretrained(other)
    with pytest.raises(UsageError, match="tokenizers"):
        gossamer.teach(parent("llama"), text, tmp_path / "out", others=[other])
    (tmp_path / "short.txt").write_text("Too short for a window.")
    with pytest.raises(DataError, match="one window needs 32 tokens, the text has 23"):
        gossamer.teach(parent("llama"), tmp_path / "short.txt", tmp_path / "out", length=32)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_the_bytes_that_are_then_written(parent: Parent, text: Path, tmp_path: Path) -> None:
    plan = plan_lessons(parent("llama"), text, length=64)
    taught = gossamer.teach(parent("llama"), text, tmp_path / "out", length=64)
    assert plan == taught.plan
    assert plan.tokens == 64 * plan.windows > 30_000
    assert plan.size_bytes < taught.size_bytes < 1.01 * plan.size_bytes


def test_torch_in_the_place_of_the_native_engine_is_told(parent: Parent, text: Path, tmp_path: Path) -> None:
    told: list[str] = []
    taught = gossamer.teach(
        parent("opt"), text, tmp_path / "out", progress=lambda what, *_: told.append(what), **SMALL
    )
    assert taught.plan.engines == ["torch"]
    assert (
        "runs with torch, which reads text more slowly: opt: the native engine knows" in taught.plan.notes[0]
    )
    assert taught.plan.notes[0] in told
