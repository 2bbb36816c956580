"""The command line: what it prints where, how it ends, and what it says about bad input."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gossamer.checkpoint import manifest
from gossamer.checkpoint.manifest import read_manifest
from gossamer.cli import app as cli
from gossamer.errors import RunError
from gossamer.evaluation import evaluate
from gossamer.evaluation.speed import compare as speed
from gossamer.recipe.reader import shipped_recipes
from tests.conftest import Case
from tests.models import save_tiny, tiny_experts

COMMANDS = (
    "inspect",
    "compress",
    "evaluate",
    "bench",
    "generate",
    "search",
    "report",
    "recipes",
    "export",
    "rotate",
    "demo",
)
HALF = "steps: [{layers: '*', method: magnitude, sparsity: 0.5}]"


class Run:
    """One call of the command line in this process: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    def call(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["gossamer", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Run(code if isinstance(code, int) else 0, printed.out, printed.err)

    return call


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "half.yaml"
    path.write_text(HALF)
    return path


@pytest.fixture
def folder(compressed: Callable[[str], Case], tmp_path: Path) -> Path:
    """A compressed folder that may be changed."""
    return Path(shutil.copytree(compressed("llama").folder, tmp_path / "small"))


def refused(result: Run, *words: str) -> None:
    """Exit code 2, nothing on stdout, and one short message without a traceback."""
    assert result.code == 2, result.err
    assert result.out == ""
    message = result.err.rpartition("gossamer: ")[2]
    assert "gossamer: " in result.err
    assert "Traceback" not in result.err
    assert "a defect" not in message
    assert len(message) < 1500
    for word in words:
        assert word in message


# ---- help and use -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, run: Callable[..., Run]) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert result.err == ""
    assert "Usage:" in result.out
    assert "--json" in result.out


def test_help_lists_every_command_and_nothing_else(run: Callable[..., Run]) -> None:
    listed = run("--help").out.partition("Commands:")[2]
    assert [
        line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " "
    ] == list(COMMANDS)


def test_the_version_is_printed(run: Callable[..., Run]) -> None:
    assert run("--version").out == "gossamer 0.1.0\n"


def test_without_a_command_the_help_goes_to_stderr_and_the_code_is_2(run: Callable[..., Run]) -> None:
    result = run()
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage:")


@pytest.mark.parametrize(
    "arguments",
    [("nosuch",), ("inspect",), ("inspect", "a", "--nosuch"), ("compress", "m", "--samples", "many"),
     ("bench", "a", "b")],
)  # fmt: skip
def test_wrong_use_ends_with_2(arguments: tuple[str, ...], run: Callable[..., Run]) -> None:
    refused(run(*arguments))


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "gossamer.cli.app", "--help"], capture_output=True, check=True)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        seconds.append(used)  # a busy machine makes the command wait, not work
    assert min(seconds) < 0.5


# ---- how it ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--debug", "inspect", "none"), ("inspect", "none", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gossamer.errors import CheckpointError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.logging, "basicConfig", lambda **_settings: None)
    monkeypatch.setattr(sys, "argv", ["gossamer", *(each.replace("none", "./none") for each in arguments)])
    with pytest.raises(CheckpointError):
        cli.main()


def test_an_interrupt_ends_with_130(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gossamer.checkpoint.summary.inspect", interrupt)
    result = run("inspect", "x")
    assert (result.code, result.out) == (130, "")
    assert result.err == "gossamer: interrupted; nothing was written\n"


def test_an_interrupted_compression_tells_how_to_go_on(
    run: Callable[..., Run], parent, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_self: Any) -> None:
        raise KeyboardInterrupt

    command = ("compress", parent("llama"), "--recipe", recipe, "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("gossamer.compression.loop.Run.head", interrupt)
        stopped = run(*command)
    assert (stopped.code, stopped.out) == (130, "")
    assert "gossamer: interrupted\n2 of 2 blocks of a stopped run are kept in" in stopped.err
    refused = run(*command)
    assert (refused.code, refused.out) == (2, "")
    assert "Give the same command with --resume" in refused.err
    assert run(*command, "--resume", "--json").json["run"]["resumed"] == 1


def test_a_defect_of_ours_is_called_one(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("gossamer.checkpoint.summary.inspect", broken)
    result = run("inspect", "x")
    assert result.code == 2
    assert (
        result.err
        == "gossamer: unexpected ZeroDivisionError: oops (a defect; run with --debug and report it)\n"
    )


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m gossamer.cli.app recipes --json | head -c 5; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


# ---- each command -----------------------------------------------------------------------------------------


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
    figures = {
        "load_seconds": 0.5,
        "peak_memory_bytes": 10**8,
        "peak_anonymous_bytes": 1,
        "peak_file_bytes": 2,
    }
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
    from gossamer.frontier import candidates as hunt

    out = tmp_path / "found"
    arguments = ("search", parent("llama"), "--budget", "size=90KB", "--text", text, "-o", out, *SEARCH)

    def interrupt(*_args: Any, **_settings: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(hunt, "verify", interrupt)
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
    from gossamer.frontier import candidates as hunt

    arguments = ("search", parent("llama"), "--text", text, *SEARCH)
    refused(run(*arguments, "--budget", "size=9KB", "-o", tmp_path / "a"), "out of reach", "nearest")
    refused(run(*arguments, "--budget", "siz=9MB", "-o", tmp_path / "a"), "unknown key", "size=60MB")
    monkeypatch.setattr(hunt.Hunt, "ratio", lambda *_: 1.5)
    missed = run(*arguments, "--budget", "perplexity=+1%", "-o", tmp_path / "b", "--json")
    assert missed.code == 1
    assert missed.json["reached"] is False
    assert "was not reached. The nearest" in missed.json["verdict"]


def test_generate_streams_text_or_prints_json(run: Callable[..., Run], compressed) -> None:
    arguments = ("generate", compressed("llama").folder, "The spider", "--max-tokens", 6)
    plain, told = run(*arguments), run(*arguments, "--json").json
    assert plain.code == 0
    assert plain.out == told["text"] + "\n"
    assert told["prompt"] == "The spider"
    sampled = (*arguments, "--temperature", 1.5, "--seed", 4, "--top-k", 50, "--top-p", 0.9, "--json")
    assert run(*sampled).json == run(*sampled).json


def test_generate_says_on_stderr_what_is_not_as_the_model_says(run: Callable[..., Run], folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"num_beams": 4, "eos_token_id": 258}')
    result = run("generate", folder, "x" * 250)
    assert result.code == 0
    assert "not honoured: num_beams 4." in result.err
    assert "at most 6 new tokens, not 128: the model has 256 positions." in result.err
    assert run("generate", folder, "x", "--max-tokens", 2, "--json").json["notes"] == [
        "generation_config.json: not honoured: num_beams 4."
    ]


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_generate_ends_with_2_when_the_logits_are_not_numbers(
    engine: str, run: Callable[..., Run], tmp_path: Path
) -> None:
    model = save_tiny("llama", tmp_path / "model")
    model.lm_head.weight.data[3] = float("nan")
    model.save_pretrained(tmp_path / "model")
    result = run("generate", tmp_path / "model", "x", "--engine", engine)
    assert (result.code, result.out) == (2, "")
    assert "NaN or infinite" in result.err
    refused(
        run("bench", tmp_path / "model", "--tokens", 2, "--repeats", 1, "--engine", engine), "NaN or infinit"
    )


def test_generate_names_a_template_that_cannot_be_used_and_raw_goes_around_it(
    run: Callable[..., Run], folder: Path
) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('Roles must alternate') }}")
    refused(run("generate", folder, "x"), "chat template", "Roles must alternate", "--raw")
    assert run("generate", folder, "x", "--raw", "--max-tokens", 2).code == 0


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


# ---- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["inspect", "bench", "generate", "evaluate", "export", "rotate"])
def test_a_truncated_compressed_folder_is_refused_by_every_command(
    command: str, run: Callable[..., Run], folder: Path, text: Path, tmp_path: Path
) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    to = ("-o", tmp_path / "plain")
    more = {"generate": ("x",), "evaluate": ("--text", text), "export": to, "rotate": to}
    refused(run(command, folder, *more.get(command, ())), "model.safetensors")
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": 7}'])
def test_a_garbled_manifest_is_refused_before_any_work(
    content: str, run: Callable[..., Run], folder: Path, text: Path, tmp_path: Path
) -> None:
    (folder / "gossamer.json").write_text(content)
    result = run("evaluate", folder, "--text", text)
    refused(result, "gossamer.json")
    assert "perplexity" not in result.err
    refused(run("generate", folder, "x"), "gossamer.json")
    refused(run("report", folder, "-o", tmp_path / "r.html"), "gossamer.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modules": {"model.layers.0.mlp.up_proj": {"format": "zip", "shape": [96, 64]}}}, "zip"),
        ({"modules": []}, "modules"),
        ({"format_version": 99}, "99"),
    ],
)
def test_a_configuration_that_lies_is_refused(
    change: dict[str, Any], words: str, run: Callable[..., Run], folder: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    refused(run("generate", folder, "x"), words)
    result = run("inspect", folder)
    assert result.code in (0, 2)
    assert "a defect" not in result.err


@pytest.mark.parametrize("command", ["compress", "evaluate"])
@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such file"), (b"", "text"), (b" \n ", "text"), (b"\xff\xfe\x80" * 40, "UTF-8")],
)
def test_text_that_cannot_be_used_is_refused(
    command: str, content: bytes | None, words: str, run: Callable[..., Run], parent, tmp_path: Path
) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    more = ("--recipe", "sparse50", "--out", tmp_path / "out") if command == "compress" else ()
    refused(run(command, parent("llama"), "--text", path, *more), words)
    assert not (tmp_path / "out").exists()


def test_targets_and_settings_that_cannot_be_meant_are_refused(
    run: Callable[..., Run], parent, text: Path, recipe: Path, tmp_path: Path
) -> None:
    model = parent("llama")
    to = ("compress", model, "--recipe", recipe)
    refused(run(*to, "--out", tmp_path / "none" / "out"), "does not exist")
    refused(run(*to, "--out", tmp_path), "exists already")
    refused(run(*to, "--out", tmp_path, "--overwrite"), "not a model folder")
    refused(run(*to, "--out", "x" * 300))
    refused(run(*to, "--out", tmp_path / "out", "--samples", 0), "--samples")
    refused(
        run("compress", model, "--recipe", "sparse51", "--out", tmp_path / "out"), "Did you mean 'sparse50'"
    )
    refused(run("compress", tmp_path / "none", "--recipe", recipe, "--out", tmp_path / "out"), "no such path")
    refused(run("evaluate", model, "--text", text, "--length", 1), "length")
    refused(run("evaluate", model, "--text", text, "--length", 0), "length")
    refused(run("evaluate", model, "--text", text, "--length", 9999), "256 tokens")
    refused(run("evaluate", model, "--text", text, "--windows", 0), "window")
    refused(run("evaluate", model, "--text", text, "--stride", 0, "--length", 32), "stride")
    refused(run("evaluate", model, "--text", text, "--activations", "int4"), "int4")
    refused(run("bench", model, "--repeats", 0), "repeats")
    refused(run("bench", model, "--threads", 0), "thread")
    refused(run("bench", model, "--tokens", 0), "token")
    refused(run("bench", model, "--prompt", ""), "prompt")
    refused(run("generate", model, ""), "empty")
    refused(run("generate", model, "x", "--max-tokens", 100000), "256 positions")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.yaml"]


def test_a_recipe_error_names_file_line_and_key(
    run: Callable[..., Run], parent, recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text("steps:\n  - layers: '*'\n    method: wanda\n    sparsty: 0.5\n")
    result = run("compress", parent("llama"), "--recipe", recipe, "--out", tmp_path / "out")
    refused(result, "half.yaml, line 4", "'sparsty'", "Did you mean 'sparsity'?")


def test_one_short_message_for_an_error_of_the_run(
    run: Callable[..., Run], parent, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(evaluate, "perplexity", broken)
    refused(
        run("evaluate", parent("llama"), "--text", text, "--length", 32, "--windows", 1), "the disk is full"
    )
