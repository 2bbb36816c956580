"""What goes along with a model besides its weights, and what never does."""

import json
from pathlib import Path

import pytest

from gossamer.checkpoint.source import open_model
from gossamer.checkpoint.write.side_files import copy_side_files
from tests.checkpoint.gguf_files import write_gguf
from tests.models import save_tiny, tiny_model


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


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": 7, "top_k": 3}, 9, {"eos_token_id": 7, "top_k": 3}),
        ({"top_k": 3}, 9, {"eos_token_id": [9], "top_k": 3}),
        (None, 9, {"eos_token_id": [9]}),
        ({"top_k": 3}, None, {"eos_token_id": 258, "top_k": 3}),  # the tokenizer's, not Llama's default
    ],
)
def test_where_text_ends_goes_along_whoever_says_it(
    generation: dict[str, int] | None, config: int | None, expected: dict[str, object], tmp_path: Path
) -> None:
    save_tiny("llama", tmp_path / "dense")
    (tmp_path / "out").mkdir()
    written = json.loads((tmp_path / "dense" / "config.json").read_text())
    kept = {name: value for name, value in written.items() if not name.endswith("_token_id")}
    (tmp_path / "dense" / "config.json").write_text(
        json.dumps(kept | ({"eos_token_id": config} if config else {}))
    )
    (tmp_path / "dense" / "generation_config.json").unlink()
    if generation is not None:
        (tmp_path / "dense" / "generation_config.json").write_text(json.dumps(generation))
    copy_side_files(open_model(tmp_path / "dense"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == expected


def test_the_ends_of_a_gguf_file_go_along(tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"), "llama", tmp_path / "tiny.gguf")
    (tmp_path / "out").mkdir()
    copy_side_files(open_model(path), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"eos_token_id": [258]}
