"""What each command prints where, and what it writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gossamer.checkpoint import manifest
from gossamer.checkpoint.manifest import read_manifest
from gossamer.evaluation.speed import compare as speed
from gossamer.evaluation.speed.load_probe import LoadFigures
from gossamer.recipe.reader import shipped_recipes
from tests.cli.runs import Run, refused
from tests.models import tiny_experts


def test_inspect_prints_a_table_or_json(run: Callable[..., Run], compressed, parent) -> None:
    told = run("inspect", parent("llama"), "--json").json
    assert told["num_blocks"] == 2
    assert len(told["matrices"]) >= 15
    table = run("inspect", compressed("llama").folder)
    assert table.code == 0
    assert "model.layers.0.self_attn.q_proj" in table.out
    assert "bitmask" in table.out


def test_recipes_lists_the_shipped_ones(run: Callable[..., Run]) -> None:
    told = run("recipes", "--json").json
    assert set(told) == set(shipped_recipes())
    assert all(name in run("recipes").out for name in told)


def test_compress_writes_the_folder_and_tells_progress_on_stderr(
    run: Callable[..., Run], parent, text: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "[odd] name"
    result = run("compress", parent("llama"), "--recipe", recipe, "--text", text, "--out", out)
    assert result.code == 0, result.err
    assert f"wrote {out}" in result.out
    assert "50.00%" in result.out
    assert "blocks" not in result.out.replace("sparsity of the blocks", "")
    assert "blocks: 2/2" in result.err
    refused(
        run("compress", parent("llama"), "--recipe", recipe, "--out", out), "exists already", "--overwrite"
    )
    again = run("compress", parent("llama"), "--recipe", recipe, "--out", out, "--overwrite", "--json")
    assert again.json["folder"] == str(out)
    assert again.json["format_version"] == 1


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    run: Callable[..., Run], parent, recipe: Path, tmp_path: Path
) -> None:
    arguments = ("compress", parent("llama"), "--recipe", recipe, "--out", tmp_path / "out", "--dry-run")
    assert run(*arguments, "--json").json["num_linears"] == 15
    shown = run(*arguments).out
    assert "magnitude sparsity=0.5" in shown
    assert "predicted size" in shown
    assert not (tmp_path / "out").exists()


def test_inspect_plan_and_run_say_that_experts_stay_dense(
    run: Callable[..., Run], recipe: Path, tmp_path: Path
) -> None:
    model = tmp_path / "parent"
    tiny_experts("mixtral").save_pretrained(model)
    weights, experts = 12_288 + 4 * 64 + 4 * 3 * 96 * 64, 4 * 64 + 4 * 3 * 96 * 64
    said = f"NOT COMPRESSED: {experts / weights:.1%} of the weights of the blocks"
    arguments = ("compress", model, "--recipe", recipe, "--out", tmp_path / "out")
    assert said in run("inspect", model).out
    assert said in run(*arguments, "--dry-run").out
    made = run(*arguments)
    assert said in made.out and said in made.err
    assert f"{0.5 * (1 - experts / weights):.2%}" in made.out


EVALUATE_KEYS = {
    "model", "parent", "perplexity", "bits_per_byte", "perplexity_signature", "tokens", "parent_perplexity", "kl_mean",
    "top1_agreement", "perplexity_ratio_ci95", "size_bytes", "parent_size_bytes",
}  # fmt: skip
BENCH_KEYS = {
    "threads", "prompt_tokens", "decode_tokens_per_s", "prefill_tokens_per_s", "load_seconds", "peak_memory_bytes",
    "weight_bytes_per_token", "read_bandwidth_gb_per_s", "roofline_share",
}  # fmt: skip


def test_evaluate_tells_what_was_promised_and_the_folder_remembers(
    run: Callable[..., Run], folder: Path, parent, text: Path
) -> None:
    arguments = ("evaluate", folder, "--text", text, "--length", 64, "--windows", 3)
    told = run(*arguments, "--against", parent("llama"), "--json").json
    assert set(told) >= EVALUATE_KEYS
    assert told["tokens"] == 3 * 63
    assert told["kl_mean"] > 0
    assert 0 < told["size_bytes"] < told["parent_size_bytes"]
    assert read_manifest(folder)["measured"]["evaluation"] == told
    shown = run(*arguments)
    assert "perplexity signature" in shown.out
    assert "perplexity: 3/3" in shown.err
    assert run(*arguments, "--json").json["parent_perplexity"] is None


def test_max_ratio_is_a_check_that_can_fail(
    run: Callable[..., Run], folder: Path, parent, text: Path
) -> None:
    arguments = ("evaluate", folder, "--text", text, "--length", 64, "--windows", 2)
    against = ("--against", parent("llama"))
    ratio = run(*arguments, *against, "--json").json["perplexity_ratio"]
    assert run(*arguments, *against, "--max-ratio", ratio * 1.01).code == 0
    failed = run(*arguments, *against, "--max-ratio", ratio * 0.99, "--json")
    assert failed.code == 1
    assert failed.json["perplexity_ratio"] == pytest.approx(ratio)
    refused(run(*arguments, "--max-ratio", 2), "--against")


def test_bench_tells_what_was_promised_and_the_folder_remembers(
    run: Callable[..., Run], folder: Path, parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = LoadFigures(
        load_seconds=0.5, peak_memory_bytes=10**8, peak_anonymous_bytes=1, peak_file_bytes=2
    )
    monkeypatch.setattr(speed, "probe_load", lambda *_args: figures)
    monkeypatch.setattr(speed, "COLD_BYTES", 1 << 20)
    arguments = ("bench", folder, "--threads", 1, "--tokens", 3, "--repeats", 2, "--prompt", "The spider")
    told = run(*arguments, "--against", parent("llama"), "--json").json
    assert set(told) >= BENCH_KEYS | {"against", "ratios"}
    assert set(told["against"]) >= BENCH_KEYS
    assert told["prompt_tokens"] == 10
    assert set(told["ratios"]["decode"]) == {"ratio", "low", "high"}
    assert all(isinstance(told[key], int | float) and told[key] > 0 for key in BENCH_KEYS)
    assert read_manifest(folder)["measured"]["benchmark"] == told
    shown = run(*arguments, "--against", parent("llama"))
    assert "decode, tokens/s" in shown.out
    assert "measuring speed: 3/3" in shown.err


def test_a_folder_that_cannot_be_written_to_does_not_fail_the_measurement(
    run: Callable[..., Run], folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(30, "Read-only file system")

    before = (folder / "gossamer.json").read_bytes()
    monkeypatch.setattr(manifest, "write_json", refuse)
    result = run("evaluate", folder, "--text", text, "--length", 64, "--windows", 1, "--json")
    assert result.code == 0
    assert result.json["perplexity"] > 1
    assert (folder / "gossamer.json").read_bytes() == before


SEARCH = ("--minutes", 10, "--samples", 4, "--length", 32, "--windows", 1)


def test_search_prints_a_table_or_json_and_goes_on_where_it_was_interrupted(
    run: Callable[..., Run], parent, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gossamer.frontier import search as loop

    out = tmp_path / "found"
    arguments = ("search", parent("llama"), "--budget", "size=90KB", "--text", text, "-o", out, *SEARCH)

    def interrupt(*_args: Any, **_settings: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "verify", interrupt)
        stopped = run(*arguments)
    assert (stopped.code, stopped.out) == (130, "")
    assert f"the same command goes on from {out}" in stopped.err
    told = run(*arguments, "--json")
    assert told.code == 0
    assert told.json == json.loads((out / "search.json").read_text())
    assert "sensitivity of embedding" not in told.err
    shown = run(*arguments)
    assert "wins with" in shown.out
    assert str(out / "chosen.yaml") in shown.out


def test_search_ends_with_1_if_the_budget_was_missed_and_2_if_it_cannot_be(
    run: Callable[..., Run], parent, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gossamer.frontier.findings import Findings

    arguments = ("search", parent("llama"), "--text", text, *SEARCH)
    refused(run(*arguments, "--budget", "size=9KB", "-o", tmp_path / "a"), "out of reach", "nearest")
    refused(run(*arguments, "--budget", "siz=9MB", "-o", tmp_path / "a"), "unknown key", "size=60MB")
    monkeypatch.setattr(Findings, "ratio", lambda *_: 1.5)
    missed = run(*arguments, "--budget", "perplexity=+1%", "-o", tmp_path / "b", "--json")
    assert missed.code == 1
    assert missed.json["reached"] is False
    assert "was not reached. The nearest" in missed.json["verdict"]


def test_export_and_report_write_what_they_say(run: Callable[..., Run], compressed, tmp_path: Path) -> None:
    folder = compressed("llama").folder
    result = run("export", folder, "--format", "dense", "-o", tmp_path / "plain")
    assert result.out == f"wrote {tmp_path / 'plain'}\n"
    refused(run("export", folder, "-o", tmp_path / "plain"), "exists")
    refused(run("export", folder, "-o", tmp_path / "x", "--format", "onnx"), "onnx", "dense")
    result = run("report", folder, "-o", tmp_path / "report.html", "--json")
    assert result.json == {"report": str(tmp_path / "report.html")}
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    refused(run("report", folder, "-o", tmp_path / "report.html"), "exists")


def test_rotate_writes_a_parent_and_says_what_untying_costs(
    run: Callable[..., Run], parent, tmp_path: Path
) -> None:
    to = ("rotate", parent("qwen2"), "-o", tmp_path / "rotated")
    refused(run(*to, "--what", "all"), "--untie", "16,640 parameters", "--what values")
    assert not (tmp_path / "rotated").exists()
    table = run(*to, "--what", "all", "--untie").out
    assert table.startswith(f"wrote {tmp_path / 'rotated'}")
    assert "hadamard matrix of order 64" in table
    told = run(*to, "--overwrite", "--seed", 3, "--json")
    assert (told.json["what"], told.json["seed"], told.json["untied_bytes"]) == ("values", 3, 0)
    assert "tensors: " in told.err
    refused(run(*to), "exists already")
    refused(
        run("rotate", parent("gpt2"), "-o", tmp_path / "x", "--what", "residual"), "RMSNorm", "--what values"
    )
    refused(run("rotate", tmp_path / "rotated", "-o", tmp_path / "x", "--what", "keys"), "keys", "values")
    refused(run("rotate", tmp_path / "none", "-o", tmp_path / "x"), "no such path")
