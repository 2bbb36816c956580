"""What `evaluate` measures for each kind of model, against figures computed by hand."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import gossamer
from gossamer.checkpoint.source import open_model
from gossamer.data.sources import Document
from gossamer.errors import CheckpointError, DataError, UsageError
from gossamer.evaluation.evaluate import evaluate, first_sentences
from tests.models import save_tiny, tiny_config, tiny_model, tiny_tokenizer


def test_perplexity_and_divergence_are_those_of_the_definition(compressed, parent, text: Path) -> None:
    case = compressed("llama")
    told = evaluate(case.folder, text=text, against=case.parent, length=48, num_windows=4, engine="torch")
    ids = tiny_tokenizer()(text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    ids_NL = torch.tensor(ids[: 4 * 48]).view(4, 48)
    small, dense = gossamer.load(case.folder).model, tiny_model("llama")
    with torch.inference_mode():
        log_q, log_p = (model(ids_NL).logits[:, :-1].double().log_softmax(-1) for model in (small, dense))
    target = ids_NL[:, 1:, None]
    nll, parent_nll = (-x.gather(-1, target).mean() for x in (log_q, log_p))
    assert told.perplexity == pytest.approx(math.exp(nll), rel=1e-4)
    assert told.parent_perplexity == pytest.approx(math.exp(parent_nll), rel=1e-4)
    assert told.perplexity_ratio == pytest.approx(math.exp(nll - parent_nll), rel=1e-4)
    low, high = told.perplexity_ratio_ci95
    assert low <= told.perplexity_ratio <= high
    assert told.kl_mean == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), rel=1e-3)
    assert told.top1_agreement == pytest.approx(float((log_p.argmax(-1) == log_q.argmax(-1)).double().mean()))
    assert told.bits_per_byte == pytest.approx(float(nll) / math.log(2), rel=1e-3)  # a token is a byte here
    assert told.tokens == 4 * 47
    assert told.size_bytes == open_model(case.folder).size_bytes
    assert told.parent_bf16_bytes == 2 * open_model(case.parent).num_parameters
    assert "L:48" in told.perplexity_signature
    stored = json.loads(json.dumps(told.to_dict()))
    assert list(stored) == [
        "model", "parent", "engine", "activations", "size_bytes", "parent_size_bytes", "parent_bf16_bytes",
        "perplexity", "bits_per_byte", "perplexity_signature", "tokens", "parent_perplexity", "parent_bits_per_byte",
        "kl_mean", "top1_agreement", "perplexity_ratio", "perplexity_ratio_ci95",
    ]  # fmt: skip
    assert all(value == getattr(told, key) for key, value in stored.items() if not isinstance(value, list))


def test_the_native_engine_is_measured_by_the_same_protocol(compressed, text: Path) -> None:
    case = compressed("llama")
    settings: dict[str, Any] = {"text": text, "against": case.parent, "length": 48, "num_windows": 4}
    torch_told = evaluate(case.folder, engine="torch", **settings)
    exact = evaluate(case.folder, engine="native", activations="float", **settings)
    told = evaluate(case.folder, **settings)
    assert (torch_told.engine, exact.engine, told.engine) == ("torch", "native", "native")
    assert (torch_told.activations, told.activations) == ("float", "int8")
    for key in ("perplexity", "parent_perplexity", "kl_mean", "bits_per_byte"):
        assert getattr(exact, key) == pytest.approx(getattr(torch_told, key), rel=1e-3)
    assert told.perplexity == pytest.approx(torch_told.perplexity, rel=0.02)
    assert "dtype:native-int8" in told.perplexity_signature


@pytest.mark.parametrize("kind", ["gemma3", "llama"])
@pytest.mark.parametrize("stride", [48, 20])
def test_every_window_opens_with_the_start_token_on_both_engines(
    stride: int, kind: str, text: Path, tmp_path: Path
) -> None:
    model = save_tiny(kind, tmp_path)
    tiny_tokenizer("<bos> $A").save_pretrained(tmp_path)
    ids = [257, *tiny_tokenizer()(text.read_text(encoding="utf-8"))["input_ids"]]
    ids_NL = torch.tensor(ids).unfold(0, 48, stride)[:4].clone()
    ids_NL[:, 0] = 257
    with torch.inference_mode():
        log_p = model(ids_NL).logits[:, :-1].double().log_softmax(-1)
    nll_NP = -log_p.gather(-1, ids_NL[:, 1:, None])[..., 0]
    scored = torch.cat([nll_NP[0], nll_NP[1:, -stride:].flatten()])
    settings: dict[str, Any] = {"text": text, "length": 48, "num_windows": 4, "stride": stride}
    told = evaluate(tmp_path, engine="torch", against=tmp_path, **settings)
    native = evaluate(tmp_path, engine="native", activations="float", **settings)
    for figures in (told.perplexity, told.parent_perplexity, native.perplexity):
        assert figures == pytest.approx(float(scored.mean().exp()), rel=1e-3)
    assert told.kl_mean == pytest.approx(0.0, abs=1e-9)
    assert told.tokens == native.tokens == scored.numel()
    assert "|bos:each|" in told.perplexity_signature and "|bos:each|" in native.perplexity_signature


def test_a_name_for_a_start_token_that_is_never_added_changes_nothing(parent, text: Path) -> None:
    assert tiny_tokenizer().bos_token_id == 257
    told = evaluate(parent("llama"), text=text, length=48, num_windows=2, engine="torch")
    assert "|bos:0|" in told.perplexity_signature


def test_text_with_tokens_that_have_no_embedding_is_refused(text: Path, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model", vocab_size=258, eos_token_id=None)
    turns = tmp_path / "turns.txt"
    turns.write_text(text.read_text(encoding="utf-8") + " <eos>")
    evaluate(tmp_path / "model", text=text, length=48, num_windows=1)
    with pytest.raises(DataError, match=r"turns.txt: .*258 \('<eos>'\); its embedding has 258 rows"):
        evaluate(tmp_path / "model", text=turns, length=48, num_windows=1)


def test_a_model_beside_itself_has_not_moved(parent, text: Path) -> None:
    told = evaluate(
        parent("qwen3"), text=text, against=parent("qwen3"), length=48, num_windows=3, engine="torch"
    )
    assert told.kl_mean == pytest.approx(0.0, abs=1e-9)
    assert told.top1_agreement == 1.0
    assert told.perplexity_ratio == 1.0


def test_without_a_parent_the_figures_that_compare_are_none(parent, text: Path) -> None:
    told = evaluate(parent("llama"), text=text, length=48, num_windows=2)
    nothing = (
        "parent",
        "parent_perplexity",
        "kl_mean",
        "top1_agreement",
        "perplexity_ratio_ci95",
        "parent_size_bytes",
    )
    assert all(getattr(told, key) is None for key in nothing)
    assert told.to_dict().keys() >= set(nothing)
    assert told.perplexity > 1


def test_the_default_length_is_what_the_model_has_positions_for(parent, text: Path) -> None:
    told = evaluate(parent("gpt2"), text=text, num_windows=1)
    assert told.tokens == 255


def test_masked_models_get_a_pseudo_perplexity(compressed, text: Path, tmp_path: Path) -> None:
    case = compressed("bert")
    folder = shutil.copytree(case.folder, tmp_path / "small")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<unk>"})
    tokenizer.save_pretrained(folder)
    told = evaluate(folder, text=text, against=case.parent, length=24, num_windows=2)
    assert told.pseudo_perplexity > 1
    assert told.parent_pseudo_perplexity > 1
    assert told.pseudo_perplexity != told.parent_pseudo_perplexity
    assert told.perplexity is None
    assert list(told.to_dict())[7:] == [
        "pseudo_perplexity", "pseudo_perplexity_signature", "tokens", "parent_pseudo_perplexity",
    ]  # fmt: skip


def test_a_masked_model_whose_tokenizer_has_no_mask_is_refused(parent, text: Path) -> None:
    with pytest.raises(UsageError, match="mask"):
        evaluate(parent("bert"), text=text, length=24, num_windows=1)


def test_bare_encoders_are_judged_by_the_cosine_of_sentence_embeddings(text: Path, tmp_path: Path) -> None:
    transformers.BertModel(tiny_config("bert")).save_pretrained(tmp_path / "dense")
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    assert open_model(tmp_path / "dense").auto_class_name == "BertModel"
    told = evaluate(tmp_path / "dense", text=text, against=tmp_path / "dense")
    assert told.embedding_cosine_mean == pytest.approx(1.0, abs=1e-5)
    assert told.embedding_cosine_min == pytest.approx(1.0, abs=1e-5)
    assert told.sentences == 512
    assert list(told.to_dict())[7:] == [
        "sentences", "embedding_cosine_mean", "embedding_cosine_min", "embedding_cosine_p05",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="--against"):
        evaluate(tmp_path / "dense", text=text)


@pytest.mark.parametrize("kind", ["t5", "whisper"])
def test_encoder_decoders_are_refused(kind: str, parent, text: Path) -> None:
    with pytest.raises(UsageError, match="encoder-decoders"):
        evaluate(parent(kind), text=text)


def test_a_model_without_a_tokenizer_is_refused(text: Path, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="tokenizer"):
        evaluate(tmp_path, text=text)


def test_only_a_model_and_its_own_parent_can_be_compared(parent, text: Path, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "larger", vocab_size=300)
    with pytest.raises(UsageError, match="vocabulary"):
        evaluate(parent("llama"), text=text, against=tmp_path / "larger", length=32, num_windows=1)


def test_a_parent_of_another_kind_is_refused(parent, text: Path) -> None:
    with pytest.raises(UsageError, match="causal"):
        evaluate(parent("llama"), text=text, against=parent("bert"), length=32, num_windows=1)


def test_a_model_that_predicts_nan_is_an_error(text: Path, tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="predicts NaN"):
        evaluate(tmp_path, text=text, length=32, num_windows=1, engine="torch")


def test_an_encoder_that_predicts_nan_is_an_error(text: Path, tmp_path: Path) -> None:
    model = transformers.BertModel(tiny_config("bert"))
    for folder in ("dense", "damaged"):
        model.save_pretrained(tmp_path / folder)
        tiny_tokenizer().save_pretrained(tmp_path / folder)
        with torch.no_grad():
            model.embeddings.LayerNorm.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match="predicts NaN"):
        evaluate(tmp_path / "damaged", text=text, against=tmp_path / "dense")


def test_the_first_sentences_are_whole_and_of_a_useful_length() -> None:
    words = "one two three four five six"
    documents = [
        Document(f"Short. {words.capitalize()}. Then {words}!\nNo\n{'word ' * 61}", "a"),
        Document(words, "b"),
    ]
    assert first_sentences(documents, 9) == [f"{words.capitalize()}.", f"Then {words}!", words]
    assert first_sentences(documents, 1) == [f"{words.capitalize()}."]
    with pytest.raises(DataError, match="sentences"):
        first_sentences([Document("Short. Too short.", "a")], 3)
