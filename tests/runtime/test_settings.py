"""What the caller asks, what the model says and what changes nothing: each field is honoured or named."""

import inspect
from typing import Any

import pytest
import transformers

from gossamer.errors import CheckpointError, UsageError
from gossamer.runtime.settings import HONOURED, WITHOUT_EFFECT, Asked, Settings, settle

ASKED = {
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed",
}  # fmt: skip


def settled(said: dict[str, Any] | None = None, **asked: Any) -> Settings:
    about = {"prompt_tokens": 10, "positions": 256, "tokenizer_eos": 258, "encoder_decoder": False}
    about |= {key: asked.pop(key) for key in list(asked) if key not in ASKED}
    return settle(said or {}, Asked(**asked), where="model", **about)


# ---- sampling -----------------------------------------------------------------------------------------------


def test_without_a_word_the_most_likely_token_is_taken() -> None:
    sampling = settled().sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.0, 0, 1.0, 0.0)
    assert sampling.repetition_penalty == 1.0


def test_a_model_that_says_how_it_is_sampled_is_sampled_so() -> None:
    said = {
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
    }
    result = settled(said)
    assert {name: getattr(result.sampling, name) for name in said if name != "do_sample"} == {
        name: value for name, value in said.items() if name != "do_sample"
    }
    assert result.notes == ()
    assert settled({"do_sample": True}).sampling.temperature == 1.0


def test_what_the_caller_asks_comes_first() -> None:
    said = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1}
    sampling = settled(said, top_k=5, temperature=0.9, repetition_penalty=1.0, seed=3).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.9, 5, 0.95, 3)
    assert sampling.repetition_penalty == 1.0
    assert settled(said, temperature=0.0).sampling.temperature == 0.0
    assert settled({"top_p": 0.5}, temperature=0.8).sampling.top_p == 0.5


def test_greedy_models_leave_sampling_fields_alone_and_say_so_unless_they_are_plainly_greedy() -> None:
    said = {"temperature": 0.6, "top_p": 0.9}
    assert settled(said).sampling.temperature == 0.0
    assert "temperature, top_p without effect" in settled(said).notes[0]
    assert settled(said | {"do_sample": False}).notes == ()


def test_options_without_effect_are_named() -> None:
    assert "--top-k, --top-p: without effect" in settled(top_k=4, top_p=0.5).notes[0]
    assert settled(top_k=4, temperature=1.0).notes == ()


@pytest.mark.parametrize(
    "asked",
    [{"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": float("inf")},
     {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"min_p": 2.0}, {"repetition_penalty": 0.0}],
)  # fmt: skip
def test_options_out_of_range_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        settled(**asked)


@pytest.mark.parametrize(
    "said",
    [{"temperature": "hot"}, {"temperature": -1.0}, {"top_k": -1}, {"top_k": 5.5}, {"top_p": 2.0}, {"top_k": True},
     {"repetition_penalty": []}, {"max_new_tokens": "many"}, {"stop_strings": 5}, {"min_p": float("nan")}],
)  # fmt: skip
def test_fields_that_cannot_be_meant_are_refused_by_file_and_name(said: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config.json: {next(iter(said))}"):
        settled({"do_sample": True} | said)


def test_a_field_that_the_caller_replaces_is_not_looked_at() -> None:
    assert settled({"do_sample": True, "top_k": -1}, top_k=4).sampling.top_k == 4


# ---- where it ends ------------------------------------------------------------------------------------------


def test_the_models_stops_come_before_the_tokenizers() -> None:
    assert settled({"eos_token_id": [3, 4]}).stops == {3, 4}
    assert settled({}).stops == {258}
    assert settled({}, tokenizer_eos=None).stops == frozenset()
    assert settled({"stop_strings": "END"}).stop_strings == ("END",)
    assert settled({"stop_strings": ["a", ""]}).stop_strings == ("a",)


def test_lengths_are_asked_said_or_the_default() -> None:
    assert settled().max_tokens == 128
    assert settled({"max_new_tokens": 50}).max_tokens == 50
    assert settled({"max_length": 50}).max_tokens == 40
    assert settled({"max_length": 50}, encoder_decoder=True).max_tokens == 49
    assert settled({"max_length": 50, "max_new_tokens": 7}).max_tokens == 7
    assert settled({"max_new_tokens": 50}, max_tokens=3).max_tokens == 3
    short = settled({"max_length": 10})
    assert short.max_tokens == 128
    assert "max_length 10" in short.notes[0]


def test_a_default_length_is_shortened_to_the_models_positions_which_is_said() -> None:
    result = settled(positions=64)
    assert result.max_tokens == 54
    assert result.notes == ("at most 54 new tokens, not 128: the model has 64 positions.",)
    assert settled({"max_new_tokens": 500}, positions=64).max_tokens == 54
    assert settled(positions=None).max_tokens == 128


def test_a_length_that_was_asked_for_and_does_not_fit_is_refused() -> None:
    assert settled(positions=64, max_tokens=54).notes == ()
    with pytest.raises(UsageError, match=r"64 positions: --max-tokens 54 fits"):
        settled(positions=64, max_tokens=55)
    with pytest.raises(UsageError, match="no room"):
        settled(positions=10)
    assert settled(positions=10, encoder_decoder=True).max_tokens == 9


# ---- nothing in silence -------------------------------------------------------------------------------------


def test_fields_that_are_not_honoured_are_named_in_one_line() -> None:
    said = {"num_beams": 4, "no_repeat_ngram_size": 3, "suppress_tokens": [1], "chat_format": "chatml"}
    (note,) = settled(said).notes
    assert note == (
        "generation_config.json: not honoured: num_beams 4, no_repeat_ngram_size 3, suppress_tokens [1], "
        "chat_format 'chatml'."
    )


def test_what_changes_nothing_is_not_named() -> None:
    defaults = transformers.GenerationConfig()._get_default_generation_params()
    defaults.pop("max_length")  # it would be the length
    assert settled(defaults | {"_from_model_config": True, "transformers_version": "5.0.0"}).notes == ()
    assert settled({"pad_token_id": 258, "bos_token_id": 1, "use_cache": True}).notes == ()


def test_forced_ids_are_for_encoder_decoders() -> None:
    said = {"forced_eos_token_id": 2, "decoder_start_token_id": 1}
    assert settled(said, encoder_decoder=True).notes == ()
    assert "forced_eos_token_id" in settled(said).notes[0]


def test_every_field_that_has_no_effect_is_one_of_transformers() -> None:
    known = inspect.getsource(transformers.GenerationConfig)
    assert [
        name for name in HONOURED | WITHOUT_EFFECT if f'"{name}"' not in known and name != "use_mtp"
    ] == []
