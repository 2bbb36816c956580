"""Text from a model: the same on both engines, within its limits, and stopped when nobody listens."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gossamer.checkpoint.loading import load
from gossamer.errors import CheckpointError, DataError, RunError, UsageError
from gossamer.runtime.generate import Writing, write
from gossamer.runtime.settings import Asked
from gossamer.runtime.torch_engine import TorchEngine
from tests.models import save_tiny, tiny_model, tiny_tokenizer
from tests.runtime.chains import change_json, save_chain
from tests.runtime.tokenizers import sentencepiece

ENGINES = ("native", "torch")
both = pytest.mark.parametrize("engine", ENGINES)
START, K, Y = (tiny_tokenizer().convert_tokens_to_ids(letter) for letter in "okY")
EOS = 258


@pytest.fixture(scope="module")
def small(compressed) -> Path:
    return compressed("llama").folder


def writing(folder: Path, prompt: str = "The spider", **settings: Any) -> Writing:
    to_write = {key: settings.pop(key) for key in ("engine", "activations", "raw") if key in settings}
    return write(
        folder, prompt, **{"activations": "float", **to_write}, asked=Asked(**{"max_tokens": 12, **settings})
    )


def written(folder: Path, prompt: str = "The spider", **settings: Any) -> str:
    return "".join(writing(folder, prompt, **settings).pieces)


# ---- what is written ----------------------------------------------------------------------------------------


@both
def test_greedy_text_is_what_the_most_likely_tokens_spell(engine: str, small: Path) -> None:
    model, tokenizer = load(small)
    assert tokenizer is not None
    ids = tokenizer("The spider", return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.inference_mode():
        for _ in range(12):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
            if int(ids[0, -1]) == tokenizer.eos_token_id:
                break
    assert written(small, engine=engine) == tokenizer.decode(ids[0, start:], skip_special_tokens=True)
    assert written(small, engine=engine) == written(small, engine=engine)


@both
def test_sampled_text_repeats_with_its_seed_and_only_then(engine: str, small: Path) -> None:
    settings = {"temperature": 1.5, "max_tokens": 24, "engine": engine}
    one = written(small, seed=1, **settings)
    assert written(small, seed=1, **settings) == one
    assert len({one, *(written(small, seed=seed, **settings) for seed in (2, 3, 4))}) > 1


@both
def test_a_sample_among_one_token_is_the_greedy_text(engine: str, small: Path) -> None:
    greedy = written(small, engine=engine)
    for narrow in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        assert written(small, engine=engine, temperature=2.0, seed=3, **narrow) == greedy


def test_a_repetition_penalty_is_the_same_on_both_engines(small: Path) -> None:
    native, torchs = (written(small, engine=engine, repetition_penalty=1.5) for engine in ENGINES)
    assert native == torchs != written(small)


def test_compressed_and_dense_models_of_all_generating_kinds_write(compressed, parent) -> None:
    for folder in (compressed("gpt2").folder, compressed("t5").folder, parent("qwen3")):
        assert isinstance(written(folder, max_tokens=4), str)


# ---- where it ends ------------------------------------------------------------------------------------------

HASH = tiny_tokenizer().convert_tokens_to_ids("#")
AFTER = {START: K, K: 2, 2: Y, Y: EOS}
STOPS = [
    ({"eos_token_id": EOS}, {"eos_token_id": None}, "k#Y"),  # F10: Llama's class has 2 as its default
    ({"eos_token_id": [Y, 2]}, {"eos_token_id": EOS}, "k"),
    ({"eos_token_id": K}, {"eos_token_id": 2}, ""),
    ({"eos_token_id": None}, {"eos_token_id": 2}, "k"),
    (None, {"eos_token_id": [2]}, "k"),
    (None, {"eos_token_id": None}, "k#Y"),
    ({"stop_strings": ["#Y"]}, {"eos_token_id": None}, "k"),
]


@both
@pytest.mark.parametrize(("generation", "config", "expected"), STOPS)
def test_text_ends_where_the_folder_says_and_the_stop_is_not_printed(
    engine: str, generation: Any, config: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    folder = save_chain(tmp_path / "chain", AFTER, generation=generation, **config)
    assert written(folder, "o", engine=engine) == expected


@both
def test_pieces_are_the_text_that_decoding_gives(engine: str, tmp_path: Path) -> None:
    tokenizer = sentencepiece()
    a, line, four, b = tokenizer.convert_tokens_to_ids(["▁a", "<0x0A>", "▁▁▁▁", "b"])  # F12
    folder = save_chain(
        tmp_path / "spm", {a: line, line: four, four: b, b: 2}, tokenizer=tokenizer, vocabulary=len(tokenizer),
        eos_token_id=2, bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    assert written(folder, "a", engine=engine) == "\n    b"


# ---- what the folder says -----------------------------------------------------------------------------------


@both
def test_the_folders_sampling_and_length_are_the_defaults(engine: str, small: Path, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    greedy = written(tmp_path / "model", engine=engine, max_tokens=5)
    change_json(file, {"do_sample": True, "temperature": 3.0, "max_new_tokens": 5})
    assert (
        len({written(tmp_path / "model", engine=engine, max_tokens=None, seed=seed) for seed in range(4)}) > 1
    )
    change_json(file, {"top_k": 1})
    assert written(tmp_path / "model", engine=engine, max_tokens=None) == greedy


@both
def test_what_is_not_honoured_is_named_and_changes_nothing(engine: str, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model")
    plain = written(tmp_path / "model", engine=engine)
    more = {
        "num_beams": 3,
        "suppress_tokens": [*range(60, 120)],
        "min_new_tokens": 3,
        "no_repeat_ngram_size": 1,
    }
    change_json(tmp_path / "model" / "generation_config.json", more)
    result = writing(tmp_path / "model", engine=engine)
    assert "".join(result.pieces) == plain
    assert all(name in result.notes[0] for name in more)


@both
def test_a_folders_stops_that_are_no_ids_are_refused(engine: str, tmp_path: Path) -> None:
    for wrong in ("</s>", -1, [2**31], [True]):
        folder = save_chain(tmp_path / "chain", {}, generation={"eos_token_id": wrong})
        with pytest.raises(CheckpointError, match="eos_token_id: expected a token id"):
            writing(folder, engine=engine)


@both
def test_a_template_that_raises_is_named_and_raw_goes_around_it(engine: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('Roles must alternate') }}"  # F14
    folder = save_chain(tmp_path / "chain", {START: K, K: EOS}, tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match=r"chat template.*Roles must alternate.*--raw"):
        writing(folder, "o", engine=engine)
    assert written(folder, "o", engine=engine, raw=True) == "k"


# ---- limits -------------------------------------------------------------------------------------------------


@both
def test_an_empty_or_too_long_prompt_is_refused(engine: str, small: Path) -> None:
    with pytest.raises(UsageError, match="empty"):
        writing(small, "", engine=engine)
    with pytest.raises(UsageError, match="256 positions"):
        writing(small, "x" * 250, max_tokens=7, engine=engine)
    with pytest.raises(UsageError, match="no room"):
        writing(small, "x" * 256, engine=engine)
    assert isinstance(written(small, "x" * 250, max_tokens=6, engine=engine), str)


@both
def test_the_default_length_is_as_much_as_the_model_has_room_for(
    engine: str, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOSSAMER_EXPAND", "0")  # nothing else to note, on any CPU
    result = writing(small, "x" * 200, max_tokens=None, engine=engine)
    assert result.notes == ("at most 56 new tokens, not 128: the model has 256 positions.",)
    assert isinstance("".join(result.pieces), str)


@both
def test_a_token_that_the_model_does_not_have_is_refused(engine: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})  # F13
    folder = save_chain(tmp_path / "chain", {}, tokenizer=tokenizer)
    with pytest.raises(DataError, match=r"<\|turn\|>"):
        writing(folder, "a<|turn|>b", engine=engine)


@pytest.mark.parametrize("kind", ["bert", "whisper"])
def test_a_model_that_writes_no_text_from_a_prompt_is_refused(kind: str, parent) -> None:
    with pytest.raises(UsageError, match="does not generate text"):
        writing(parent(kind))


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no tokenizer"):
        writing(tmp_path)


# ---- what goes wrong ----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(
    engine: str, broken: float, temperature: float, tmp_path: Path
) -> None:
    save_tiny("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"][7] = broken
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match="NaN or infinite"):
        written(tmp_path, engine=engine, temperature=temperature)


def test_a_failure_inside_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_kwargs: Any) -> None:
        raise ValueError("no such thing")

    engine = TorchEngine(tiny_model("llama"), "tiny", {})
    monkeypatch.setattr(engine.model, "generate", broken)
    with pytest.raises(RunError, match="tiny: generation failed: no such thing"):
        list(engine.generate([1], 4))


def test_nobody_listening_stops_the_thread(small: Path) -> None:
    pieces = writing(small, max_tokens=200, temperature=1.5, seed=0, engine="torch").pieces
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "gossamer-generate"]
