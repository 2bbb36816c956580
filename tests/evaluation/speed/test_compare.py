"""The benchmark: the arithmetic of its figures, the order of its rounds, and what it refuses."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gossamer.errors import RunError, UsageError
from gossamer.evaluation.speed import compare as speed
from gossamer.evaluation.speed.compare import Subject, benchmark
from gossamer.evaluation.speed.decode import Round, kind_of, run_round
from gossamer.evaluation.speed.prompt import random_prompt
from gossamer.evaluation.speed.result import Ratio, paired_ratio
from gossamer.evaluation.speed.surroundings import Business, business, is_noisy, others_share, steal_share
from gossamer.evaluation.speed.weight_bytes import weight_bytes_per_token
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.quantized import Quantized
from gossamer.layers.embedding import PackedEmbedding
from gossamer.layers.linear import SparseLinear
from tests.models import save_tiny, tiny_model

FAST: dict[str, Any] = {
    "threads": 1, "prompt_tokens": 5, "tokens": 3, "repeats": 2, "load_repeats": 0,
    "bandwidth_bytes": 1 << 20,
}  # fmt: skip


def subject(kind: str, name: str = "one", **changes: Any) -> Subject:
    return Subject(name, lambda: tiny_model(kind, **changes))


# ---- the whole --------------------------------------------------------------------------------------------


def test_report_holds_the_promised_fields_for_both_models() -> None:
    report = benchmark(subject("llama"), subject("llama", "other", hidden_size=32), **FAST).to_dict()
    values = json.loads(json.dumps(report, allow_nan=False))
    figures = [
        "model", "engine", "activations", "kind", "threads", "prompt_tokens", "tokens", "decode_tokens_per_s",
        "prefill_tokens_per_s", "load_seconds", "peak_memory_bytes", "weight_bytes_per_token",
        "read_bandwidth_gb_per_s", "read_bandwidth_same_size_gb_per_s", "roofline_share", "memory", "rounds",
    ]  # fmt: skip
    assert list(values["against"]) == figures
    assert list(values) == [
        *figures, "against", "ratios", "repeats", "loadavg_before", "loadavg_after", "others_share", "steal_share",
        "noisy", "cpu", "cores", "bandwidth", "versions",
    ]  # fmt: skip
    assert list(values["memory"]) == ["baseline_bytes", "peak_anonymous_bytes", "peak_file_bytes"]
    assert (values["model"], values["against"]["model"]) == ("one", "other")
    assert set(values["ratios"]) == {"decode", "prefill", "load", "memory"}
    assert set(values["ratios"]["decode"]) == {"ratio", "low", "high"}
    assert values["ratios"]["load"] is None
    assert len(values["rounds"]["decode"]) == 2
    assert set(values["versions"]) == {"gossamer", "torch", "transformers", "python"}


def test_figures_follow_from_the_seconds_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tiny_model("llama"), tiny_model("llama", seed=1)
    order: list[str] = []
    seconds = {"first": iter([9.0, 1.0, 2.0, 4.0]), "second": iter([9.0, 4.0, 4.0, 8.0])}

    def timed(model: nn.Module, ids_1T: torch.Tensor, tokens: int) -> Round:
        assert (ids_1T.shape, tokens) == ((1, 8), 12)
        name = "first" if model is first else "second"
        order.append(name[0])
        decode = next(seconds[name])
        return Round(prefill=decode / 2, decode=decode)

    monkeypatch.setattr(speed, "run_round", timed)
    report = benchmark(
        Subject("a", lambda: first), Subject("b", lambda: second),
        **{**FAST, "prompt_tokens": 8, "tokens": 12, "repeats": 3},
    )  # fmt: skip
    assert "".join(order) == "sf" + "fs" + "sf" + "fs"
    assert report.own.decode_tokens_per_s == 6
    assert report.own.prefill_tokens_per_s == 8
    assert report.against is not None
    assert report.against.decode_tokens_per_s == 3
    assert report.ratios.decode == Ratio(2.0, 2.0, 4.0)
    bandwidth = report.own.read_bandwidth_gb_per_s
    assert bandwidth == pytest.approx(
        (report.bandwidth.before_gb_per_s + report.bandwidth.after_gb_per_s) / 2
    )
    expected = report.own.weight_bytes_per_token * 6 / (bandwidth * 1e9)
    assert report.own.roofline_share == pytest.approx(expected)


def test_threads_are_set_inside_and_put_back_after(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def look(model: nn.Module, ids_1T: torch.Tensor, tokens: int) -> Round:
        seen.append(torch.get_num_threads())
        return run_round(model, ids_1T, tokens)

    before = torch.get_num_threads()
    monkeypatch.setattr(speed, "run_round", look)
    benchmark(subject("llama"), **{**FAST, "threads": before + 1})
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_load_time_and_memory_come_from_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str]) -> Any:
        asked.append(command[1:])
        seconds = 1.0 if "small" in command else 3.0 + len(asked)
        figures = {"load_seconds": seconds, "peak_memory_bytes": 100 * round(seconds), "baseline_bytes": 50}
        return replace(speed_run, output=f"noise\n{json.dumps(figures)}\n")

    from gossamer.evaluation.speed.memory import IsolatedRun

    speed_run = IsolatedRun("", 0.0, None)
    monkeypatch.setattr(speed, "run_isolated", run)
    one = replace(subject("llama"), path="small", dtype="float32", activations="int8")
    report = benchmark(one, replace(subject("llama", "b"), path="large"), **{**FAST, "load_repeats": 2})
    assert [command[2] for command in asked] == ["small", "large", "large", "small"]
    assert asked[0] == [
        "-m", "gossamer.evaluation.speed.load_probe", "small", "float32",
        "--threads", "1", "--prompt-tokens", "5", "--activations", "int8",
        "--engine", "torch",
    ]  # fmt: skip
    assert report.own.load_seconds == 1
    assert report.against is not None
    assert report.against.load_seconds == 5.5
    assert report.against.peak_memory_bytes == 550
    assert report.own.memory.baseline_bytes == 50
    assert report.ratios.load == Ratio(pytest.approx(1 / 5.5), pytest.approx(1 / 6), pytest.approx(1 / 5))


@pytest.mark.parametrize("printed", ["", "no json\n", "{}\n", '["load_seconds"]\n'])
def test_a_probe_without_figures_is_an_error(printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gossamer.evaluation.speed.memory import IsolatedRun

    monkeypatch.setattr(speed, "run_isolated", lambda command: IsolatedRun(printed, 0.0, None))
    with pytest.raises(RunError, match="printed no figures"):
        speed.probe_load(replace(subject("llama"), path="here"), 1, 4)


# ---- one round --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "t5"])
def test_the_loop_decodes_what_generate_decodes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(kind)
    prompt = random_prompt(model, 6)
    decoded: list[int] = []
    forward = model.forward

    def watched(*args: Any, **given: Any) -> Any:
        outputs = forward(*args, **given)
        decoded.append(int(outputs.logits[0, -1].argmax()))
        return outputs

    watched.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "forward", watched)
    result = run_round(model, prompt, 5)
    monkeypatch.undo()
    assert result.decode is not None
    assert min(result.prefill, result.decode) > 0
    model.generation_config.eos_token_id = None
    expected = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False
    )
    assert decoded == expected[0, -6:].tolist()


def test_encoders_are_only_timed_on_a_pass() -> None:
    report = benchmark(subject("bert"), subject("bert", "b"), **FAST)
    assert report.own.kind == "encoder"
    assert report.own.decode_tokens_per_s is None
    assert report.own.roofline_share is None
    assert report.own.prefill_tokens_per_s > 0
    assert report.ratios.decode is None
    assert report.ratios.prefill is not None


def test_kinds_are_told_apart() -> None:
    found = {kind: kind_of(tiny_model(kind)) for kind in ("llama", "bert", "t5")}
    assert found == {"llama": "decoder", "bert": "encoder", "t5": "encoder-decoder"}


def test_a_model_that_returns_nan_is_not_timed() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(RunError, match="NaN"):
        benchmark(Subject("broken", lambda: model), **FAST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_tokens": 250, "tokens": 10}, "260 positions needed, the model has 256"),
        ({"prompt_ids": []}, "at least 1 prompt token"),
        ({"tokens": 0}, "at least 1 prompt token and 1 decoded"),
        ({"prompt_ids": [1, 260]}, "from 0 to 259"),
        ({"repeats": 0}, "repeats"),
        ({"threads": 0}, "threads"),
    ],
)
def test_impossible_requests_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        benchmark(subject("llama"), **{**FAST, **changes})


def test_a_model_that_hears_instead_of_reading_is_refused() -> None:
    with pytest.raises(UsageError, match="does not take text"):
        benchmark(subject("whisper"), **FAST)


# ---- bytes of weights -------------------------------------------------------------------------------------


def test_an_untied_embedding_counts_as_one_row() -> None:
    model = tiny_model("llama")
    everything = sum(t.numel() * 4 for t in (*model.parameters(), *model.buffers()))
    table = model.get_input_embeddings().weight
    assert weight_bytes_per_token(model) == everything - 4 * table.numel() + 4 * table.shape[1]


def test_a_tied_embedding_counts_once_and_whole() -> None:
    model = tiny_model("qwen2")
    everything = sum(t.numel() * 4 for t in (*model.parameters(), *model.buffers()))  # lists tied ones once
    assert weight_bytes_per_token(model) == everything


@pytest.mark.parametrize("tied", [True, False])
def test_packed_weights_count_as_they_are_stored(tied: bool) -> None:
    codes_OI = torch.zeros(64, 64, dtype=torch.uint8)
    packed = IntegerWeight.pack(Quantized(codes_OI, torch.ones(64, 1), None, 4, 64))
    embedding = PackedEmbedding.from_packed(packed)
    head = SparseLinear.tied_to(embedding) if tied else SparseLinear.from_packed(packed)
    if not tied:
        head.load_state_dict(
            {name: tensor.clone() for name, tensor in head.state_dict().items()}, assign=True
        )
    model = nn.ModuleDict({"embedding": embedding, "linear": nn.Linear(8, 2), "head": head})
    expected = packed.num_bytes + 4 * (16 + 2) + (0 if tied else packed.num_bytes / 64)
    assert weight_bytes_per_token(model) == pytest.approx(expected, abs=1)


def test_the_encoder_of_an_encoder_decoder_is_not_read_for_each_token() -> None:
    model = tiny_model("t5")
    assert weight_bytes_per_token(model) < sum(4 * t.numel() for t in model.parameters())
    encoder = {id(t) for t in model.get_encoder().parameters()} - {id(model.shared.weight)}
    decoder = sum(4 * t.numel() for t in model.parameters() if id(t) not in encoder)
    table = 0 if model.lm_head.weight is model.shared.weight else 4 * (model.shared.weight.numel() - 64)
    positions = model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert weight_bytes_per_token(model) == decoder - table - 4 * (positions.numel() - positions.shape[1])


# ---- ratios and surroundings ------------------------------------------------------------------------------


def test_ratio_is_that_of_the_medians_and_its_spread_that_of_pairs() -> None:
    assert paired_ratio([2.0, 4.0, 6.0], [1.0, 1.0, 3.0]) == Ratio(4.0, 2.0, 4.0)
    assert paired_ratio([], [1.0]) is None


def test_noise_is_time_that_others_took() -> None:
    quiet = Business(0.5, all_seconds=100, used_seconds=20, own_seconds=10, stolen_seconds=1)
    # 200 s later: 150 used, of which 142 by ourselves; 2 stolen
    later = Business(5.0, all_seconds=300, used_seconds=170, own_seconds=152, stolen_seconds=3)
    assert others_share(quiet, later) == pytest.approx(0.04)
    assert steal_share(quiet, later) == pytest.approx(0.01)
    assert not is_noisy(quiet, later)
    assert is_noisy(quiet, replace(later, own_seconds=149))
    assert is_noisy(quiet, replace(later, stolen_seconds=6))
    assert not is_noisy(quiet, replace(later, own_seconds=200))  # clocks differ by a tick
    untold = Business(None, 0, 0, 5, 0)
    assert not is_noisy(untold, untold)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell")
def test_own_time_is_not_that_of_others() -> None:
    before = business()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    after = business()
    assert after.own_seconds - before.own_seconds > 0.1
    assert after.used_seconds - before.used_seconds >= after.own_seconds - before.own_seconds - 0.05
    assert after.all_seconds > before.all_seconds


# ---- the process that loads a model -----------------------------------------------------------------------


def test_load_probe_loads_runs_and_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    from gossamer.checkpoint.loading import Loaded
    from gossamer.evaluation.speed import load_probe, runners

    asked: list[Any] = []

    def load(path: str, *, dtype: torch.dtype | None, activations: str) -> Loaded:
        asked.append((path, dtype, activations))
        return Loaded(tiny_model("llama"), None)

    monkeypatch.setattr(runners, "load", load)
    figures = load_probe.probe("somewhere", "bfloat16", 1, 4, 2, "float", "torch")
    assert asked == [("somewhere", torch.bfloat16, "float")]
    assert figures.load_seconds > 0
    assert figures.peak_memory_bytes > 1 << 20
    if Path("/proc/self/status").exists():
        assert figures.peak_memory_bytes >= 0.98 * figures.baseline_bytes
        assert figures.peak_anonymous_bytes is not None


def test_the_process_that_loads_a_model_really_does(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "model")
    figures = speed.probe_load(Subject("tiny", lambda: nn.Identity(), path=str(tmp_path / "model")), 1, 4)
    assert 0 < figures.load_seconds < 60
    assert figures.peak_memory_bytes > 50 << 20
