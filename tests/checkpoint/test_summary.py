import json
from pathlib import Path

import pytest
import torch
from gguf.constants import GGMLQuantizationType

import gossamer
from gossamer.checkpoint.summary import describe_format, inspect, share_of_zeros
from gossamer.formats.low_rank import LowRankWeight
from gossamer.recipe.reader import parse_recipe
from tests.checkpoint.gguf_files import write_gguf
from tests.models import KINDS, save_tiny, tiny_model


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_and_parameters_add_up(kind: str, tmp_path: Path) -> None:
    model = save_tiny(kind, tmp_path, dtype=torch.bfloat16)
    summary = inspect(tmp_path)
    assert summary.num_parameters == sum(p.numel() for p in model.parameters())
    assert summary.weight_bytes == sum(p.nbytes for p in model.parameters())
    assert summary.num_blocks == (4 if kind in ("t5", "whisper") else 2)
    for matrix in summary.matrices:
        weight = model.get_submodule(matrix.name).weight
        assert matrix.parameters == weight.numel() == matrix.shape[0] * matrix.shape[1]
        tied = matrix.format.startswith("tied to ")
        assert (matrix.size_bytes, matrix.format) == (weight.nbytes, "bfloat16") or (
            tied and matrix.size_bytes == 0
        )
    in_matrices = sum(matrix.size_bytes for matrix in summary.matrices)
    assert 0.9 * summary.weight_bytes < in_matrices <= summary.weight_bytes
    json.dumps(summary.to_dict())


def test_zeros_are_counted(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[:, ::4] = 0.0
    model.save_pretrained(tmp_path)
    summary = inspect(tmp_path)
    sparsity = {matrix.name: matrix.sparsity for matrix in summary.linears}
    assert sparsity["model.layers.1.mlp.up_proj"] == 0.25
    assert sparsity["model.layers.1.mlp.down_proj"] == 0.0
    inside = sum(matrix.parameters for matrix in summary.matrices if matrix.role == "block")
    assert summary.sparsity == pytest.approx(0.25 * 2 * 96 * 64 / inside)


def test_a_gguf_shows_the_type_of_each_tensor(tmp_path: Path) -> None:
    model = tiny_model("qwen2", num_key_value_heads=4)
    path = write_gguf(model, "qwen2", tmp_path / "m.gguf", kind=GGMLQuantizationType.Q4_1)
    summary = inspect(path)
    assert (summary.kind, summary.model_class, summary.stacks) == ("gguf", "Qwen2ForCausalLM", (2,))
    matrices = {matrix.name: matrix for matrix in summary.matrices}
    up = matrices["model.layers.0.mlp.up_proj"]
    assert (up.format, up.shape, up.size_bytes) == ("Q4_1", (96, 64), 96 * 64 // 32 * 20)
    assert matrices["model.embed_tokens"].format == "float32"
    assert (matrices["lm_head"].format, matrices["lm_head"].size_bytes) == ("tied to model.embed_tokens", 0)
    assert summary.size_bytes == path.stat().st_size > summary.weight_bytes


def test_roles_name_what_a_matrix_is(tmp_path: Path) -> None:
    save_tiny("bert", tmp_path)
    roles = {matrix.name: matrix.role for matrix in inspect(tmp_path).matrices}
    assert roles["bert.embeddings.position_embeddings"] == "embedding"
    assert roles["bert.encoder.layer.0.output.dense"] == "block"
    assert roles["cls.predictions.transform.dense"] == "other"
    assert roles["cls.predictions.decoder"] == "head"


def test_share_of_zeros_counts_negative_zero_and_empty_tensors() -> None:
    assert share_of_zeros(torch.tensor([[0.0, -0.0, 1.0, float("nan")]])) == 0.5
    assert share_of_zeros(torch.zeros(0, 3)) == 0.0


def test_formats_are_described_in_words() -> None:
    assert describe_format({"format": "integer", "shape": [1, 1], "bits": 4, "group_size": 64}) == (
        "integer 4 bits group 64"
    )
    assert describe_format({"format": "nm", "keep": 4, "values": "int4", "bits": 4, "group_size": 64}) == (
        "nm 4:16 int4 4 bits group 64"
    )
    assert describe_format({"format": "nm", "keep": 2, "window": 4, "values": "int8"}) == "nm 2:4 int8"
    assert describe_format({"format": "dense", "dtype": "bfloat16"}) == "dense bfloat16"
    assert describe_format(LowRankWeight.declare_factors((8, 9), 3, None)) == "rank 3"
    residual = {"format": "integer", "shape": [8, 9], "bits": 4, "group_size": 9}
    assert (
        describe_format(LowRankWeight.declare_factors((8, 9), 3, residual))
        == "integer 4 bits group 9 + rank 3"
    )


def test_the_sparsity_of_a_weight_with_a_low_rank_part_is_that_of_the_rest(
    parent, text, tmp_path: Path
) -> None:
    recipe = (
        "steps: [{layers: '*.mlp.*', method: basil, rank: 3}, {layers: '*.q_proj', method: svd, rank: 2}]"
    )
    settings = {"text": str(text), "samples": 2, "length": 32}
    gossamer.compress(parent("llama"), parse_recipe(recipe), out=tmp_path / "out", **settings)
    shown = {matrix.name: (matrix.sparsity, matrix.format) for matrix in inspect(tmp_path / "out").matrices}
    assert shown["model.layers.0.mlp.up_proj"] == (0.5, "bitmask float32 + rank 3")
    assert shown["model.layers.1.self_attn.q_proj"] == (1.0, "rank 2")
