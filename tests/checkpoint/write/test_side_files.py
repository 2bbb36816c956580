"""What goes along with a model besides its weights, and what never does."""

from pathlib import Path

from gossamer.checkpoint.source import open_model
from gossamer.checkpoint.write.side_files import copy_side_files
from tests.models import save_tiny


def carried(tmp_path: Path, *others: str) -> list[str]:
    save_tiny("bert", tmp_path / "dense")
    for name in others:
        (tmp_path / "dense" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "dense" / name).write_text(f"content of {name}")
    (tmp_path / "out").mkdir()
    copy_side_files(open_model(tmp_path / "dense"), tmp_path / "out")
    return sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    )


def test_tokenizer_settings_licence_and_pooling_go_along(tmp_path: Path) -> None:
    others = (
        "LICENSE",
        "NOTICE.txt",
        "chat_template.jinja",
        "1_Pooling/config.json",
        "modules.json",
        "vocab.txt",
    )
    got = carried(tmp_path, *others)
    assert set(others) <= set(got)
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(got)
    assert (tmp_path / "out" / "1_Pooling" / "config.json").read_text() == "content of 1_Pooling/config.json"


def test_weights_code_manifests_and_other_models_stay_behind(tmp_path: Path) -> None:
    got = carried(
        tmp_path, "modeling_evil.py", "pytorch_model.bin", "gossamer.json", "data_config.json",
        "other-model/config.json", ".out.partial-1/config.json", "onnx/model.onnx", "onnx/config.json",
    )  # fmt: skip
    assert got == ["tokenizer.json", "tokenizer_config.json"]
