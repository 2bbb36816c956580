"""`gossamer recover` as a user runs it."""

from collections.abc import Callable
from pathlib import Path

from tests.cli.runs import Run, refused


def test_a_folder_is_recovered_and_its_curve_shown(
    run: Callable[..., Run], folder: Path, parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    given = ("recover", folder, "--parent", parent("llama"), "--text", text, "--steps", 3, "--length", 32)
    result = run(*given, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert "held-out KL to the parent" in result.out
    assert "zeros that stayed" in result.out
    assert "held-out KL" in result.err
    assert "tokens/s" in result.err
    again = run(*given, "--out", tmp_path / "other", "--json", "--train", "norms")
    assert again.json["steps"] == 3
    assert again.json["folder"] == str(tmp_path / "other")
    evaluated = run(
        "evaluate",
        tmp_path / "out",
        "--against",
        parent("llama"),
        "--text",
        text,
        "--length",
        32,
        "--windows",
        2,
    )
    assert evaluated.code == 0, evaluated.err
    assert run("report", tmp_path / "out", "-o", tmp_path / "page.html").code == 0


def test_a_dry_run_tells_what_would_be_done_and_writes_nothing(
    run: Callable[..., Run], folder: Path, parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    given = ("recover", folder, "--parent", parent("llama"), "--text", text, "--length", 32, "--minutes", 1)
    result = run(*given, "--out", tmp_path / "out", "--dry-run", "--json")
    assert result.code == 0, result.err
    plan = result.json
    assert plan["kept_weights"] == plan["removed_weights"] == 30720
    assert plan["optimizer_bytes"] < 0.6 * plan["dense_optimizer_bytes"]
    assert plan["tokens_per_step"] == 128
    assert "minutes" in run(*given, "--out", tmp_path / "out", "--dry-run").out
    assert sorted(tmp_path.iterdir()) == before


def test_wrong_use_is_one_short_message(
    run: Callable[..., Run], folder: Path, parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    base = ("recover", folder, "--text", text, "--out", tmp_path / "out")
    refused(run(*base, "--minutes", 1), "--parent")
    refused(run(*base, "--parent", parent("llama"), "--minutes", 0), "--minutes 0")
    refused(run(*base, "--parent", parent("llama")), "one of the two")
    refused(run(*base, "--parent", parent("qwen2"), "--minutes", 1), "was made of another model")
    refused(run(*base, "--parent", parent("llama"), "--steps", 1, "--train", "some"), "all, lora, norms")
    refused(
        run(
            "recover",
            parent("t5"),
            "--parent",
            parent("t5"),
            "--text",
            text,
            "--steps",
            1,
            "-o",
            tmp_path / "o",
        ),
        "is an encoder-decoder",
    )
    assert not (tmp_path / "out").exists()


def test_compress_recovers_in_one_go_and_shows_both(
    run: Callable[..., Run], recipe: Path, parent: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    given = ("compress", parent("llama"), "--recipe", recipe, "--text", text, "--length", 32)
    result = run(*given, "--recover-steps", 3, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    for words in ("sparsity of the blocks", "held-out KL to the parent", "zeros that stayed"):
        assert words in result.out
    assert "compressed; now it is recovered" in result.err
    again = run(*given, "--recover-minutes", 0.05, "--out", tmp_path / "again", "--json")
    assert again.json["recovery"][0]["minutes_given"] == 0.05
    refused(run(*given, "--recover-steps", 3, "--out", tmp_path / "dry", "--dry-run"), "recover --dry-run")
    refused(run(*given, "--recover-minutes", 0, "--out", tmp_path / "dry"), "--recover-minutes 0")
