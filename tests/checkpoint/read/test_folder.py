import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from gossamer.checkpoint.source import open_model
from gossamer.errors import CheckpointError, UnsupportedModelError
from tests.models import save_tiny
from tests.runtime.engines import error, exact, text_ids

SHARDS = "60KB"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny("llama", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_tiny("llama", tmp_path / "model", max_shard_size=SHARDS)
    return tmp_path / "model"


def refuse(folder: Path, match: str, error: type[Exception] = CheckpointError) -> str:
    with pytest.raises(error, match=match) as caught:
        open_model(folder).model  # noqa: B018
    return str(caught.value)


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_path_is_refused_without_asking_the_hub(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path / "nothing.gguf"):
        with pytest.raises(CheckpointError, match="no such path"):
            open_model(path)
    with pytest.raises(CheckpointError, match="no such path"):
        open_model("nothing.gguf")


def test_a_config_that_is_missing_or_broken_is_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text("{")
    refuse(folder, "expected JSON")
    config.write_text("[1]")
    refuse(folder, "JSON object")
    config.write_bytes(b"\xff\xfe\x00")
    refuse(folder, "expected JSON")
    config.write_text("{}")
    refuse(folder, "model_type", UnsupportedModelError)
    config.unlink()
    refuse(folder, r"config\.json: expected this file")


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    change_config(folder, model_type="hyena-9000")
    refuse(folder, "hyena-9000", UnsupportedModelError)


def test_code_in_the_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    sign = tmp_path / "executed"
    (folder / "modeling_evil.py").write_text(f"open({str(sign)!r}, 'w')\n")
    auto_map = {"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"}
    change_config(folder, auto_map=auto_map)
    source = open_model(folder)
    assert type(source.model).__name__ == "LlamaForCausalLM"
    assert source.tokenizer() is not None
    change_config(folder, model_type="evil")
    refuse(folder, "own code", UnsupportedModelError)
    assert not sign.exists()


def test_an_architecture_name_cannot_reach_anything_but_a_model_class(folder: Path) -> None:
    for name in ("pipeline", "AutoModel", "BertModel", "os.system", "__class__", 7):
        change_config(folder, architectures=[name])
        assert open_model(folder).auto_class_name == "LlamaForCausalLM"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.ckpt"])
def test_pickled_weights_are_refused_with_a_way_out_and_never_loaded(
    name: str, folder: Path, tmp_path: Path
) -> None:
    sign = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(sign), "w")

    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Evil()))
    message = refuse(folder, "executes whatever code")
    assert "save_pretrained" in message and name in message
    with pytest.raises(CheckpointError, match="executes whatever code"):
        open_model(folder / name)
    assert not sign.exists()


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refuse(folder, "found no weights")


def test_a_file_in_place_of_the_folder_is_answered_with_the_folder(folder: Path) -> None:
    refuse(folder / "model.safetensors", "Give the folder")
    (folder / "x.txt").write_text("hello, this is no model at all")
    refuse(folder / "x.txt", "first bytes 'GGUF'")


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:size])
        refuse(folder, "truncated or corrupted")


def test_a_missing_tensor_is_refused_instead_of_made_up(folder: Path) -> None:
    change_weights(folder, **{"model.layers.1.mlp.up_proj.weight": None})
    assert "model.layers.1.mlp.up_proj.weight" in refuse(folder, "missing")


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod."])
def test_names_of_wrappers_are_taken_off_on_both_engines(wrapper: str, folder: Path) -> None:
    expected = open_model(folder).model(text_ids()[None]).logits[0].detach()
    stored = load_file(folder / "model.safetensors")
    save_file({wrapper + name: tensor for name, tensor in stored.items()}, folder / "model.safetensors")
    source = open_model(folder)
    assert torch.equal(source.model(text_ids()[None]).logits[0].detach(), expected)
    assert source.unused_tensors == ()
    assert torch.equal(source.load_dense()(text_ids()[None]).logits[0], expected)
    assert error(exact(folder).logits(text_ids()), expected) < 1e-3


def test_names_that_nobody_knows_are_shown(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    save_file({f"wrapped.{name}": tensor for name, tensor in stored.items()}, folder / "model.safetensors")
    told = refuse(folder, "21 are missing")
    assert (
        "The file has 21 that LlamaForCausalLM has no place for (wrapped.lm_head.weight, wrapped.model.em"
        in told
    )


def test_a_tensor_of_another_shape_is_refused(folder: Path) -> None:
    change_weights(folder, **{"model.layers.1.mlp.up_proj.weight": torch.zeros(95, 64)})
    message = refuse(folder, "up_proj")
    assert "[96, 64]" in message and "[95, 64]" in message


def test_a_tensor_that_the_model_has_no_place_for_is_reported(folder: Path) -> None:
    change_weights(folder, **{"model.layers.0.extra.weight": torch.zeros(3)})
    source = open_model(folder)
    assert source.model is not None
    assert source.unused_tensors == ("model.layers.0.extra.weight",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("hidden_size", 10**7),
        ("vocab_size", 10**12),
        ("intermediate_size", 10**9),
        ("hidden_size", "wide"),
        ("hidden_size", -64),
        ("num_attention_heads", 0),
        ("hidden_act", "nonsense"),
        ("num_hidden_layers", 3),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused(key: str, value: object, folder: Path) -> None:
    change_config(folder, **{key: value})
    refuse(folder, "expected")


def test_other_quantizations_are_refused_by_name(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    refuse(folder, "'gptq'", UnsupportedModelError)


def test_an_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    refuse(folder, "PEFT", UnsupportedModelError)


def test_shards_are_read(sharded: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 3
    source = open_model(sharded)
    assert len(source.reader.weight_files) > 3 and source.model is not None


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    refuse(sharded, f"{shard.name}: expected this shard")


def test_a_shard_that_does_not_hold_what_the_index_says_is_refused(sharded: Path) -> None:
    first, second, *_ = sorted(sharded.glob("*.safetensors"))
    contents, others = (
        load(first.read_bytes()),
        load(second.read_bytes()),
    )  # no map of a file that is written over
    save_file(dict(list(contents.items())[1:]), first)
    refuse(sharded, "lacks 1")
    save_file({**contents, "extra": torch.zeros(2)}, first)
    refuse(sharded, r"has 1 others \(extra")
    save_file(others, first)
    refuse(sharded, "lacks .* and has")


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_cannot_point_outside_the_folder(shard: str, sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["lm_head.weight"] = shard
    index.write_text(json.dumps(content))
    refuse(sharded, "plain file names")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_a_broken_index_is_refused(content: str, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    refuse(sharded, "index.json")


def test_a_folder_of_ggufs_is_answered_with_the_path_of_one(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    refuse(tmp_path, r"a\.gguf")


def test_a_broken_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer"):
        open_model(folder).tokenizer()
