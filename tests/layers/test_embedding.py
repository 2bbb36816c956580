"""PackedEmbedding: rows of a packed table, and heads that share it."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from gossamer.errors import FormatError
from gossamer.formats.dense import DenseWeight
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.packed import PackedWeight
from gossamer.layers.embedding import PackedEmbedding
from gossamer.layers.linear import SparseLinear
from tests.formats.cases import EXAMPLES, quantized, weight

TABLES: dict[str, PackedWeight] = {
    "integer": IntegerWeight.pack(quantized(37, 96, 6, 32, symmetric=False)),
    "dense": DenseWeight.pack(weight(37, 96), torch.bfloat16),
}
every_table = pytest.mark.parametrize("name", TABLES)
ROWS = torch.tensor([[0, 36, 5], [16, 15, 5]])


@every_table
def test_rows_are_those_of_the_unpacked_table(name: str) -> None:
    embedding = PackedEmbedding.from_packed(TABLES[name])
    expected = nn.functional.embedding(ROWS, TABLES[name].unpack())
    assert torch.equal(embedding(ROWS), expected)
    assert torch.equal(embedding(ROWS.int()), expected)
    assert embedding(ROWS[:0]).shape == (0, 3, 96)


@every_table
@pytest.mark.parametrize("row", [-1, 37, 47, 48, 10**9])
def test_rows_outside_the_table_are_refused(name: str, row: int) -> None:
    with pytest.raises(IndexError, match="0 to 36"):
        PackedEmbedding.from_packed(TABLES[name])(torch.tensor([3, row]))


@every_table
def test_it_loads_into_empty_buffers(name: str) -> None:
    dense = nn.Embedding(37, 96, padding_idx=2, dtype=torch.bfloat16)
    embedding = PackedEmbedding.from_meta(TABLES[name].meta(), like=dense, device="meta")
    embedding.load_state_dict(TABLES[name].tensors(), assign=True)
    assert embedding(ROWS).dtype == torch.bfloat16
    assert torch.equal(embedding(ROWS), TABLES[name].unpack()[ROWS].bfloat16())
    assert (embedding.num_embeddings, embedding.embedding_dim, embedding.padding_idx) == (37, 96, 2)


def test_gemmas_scale_is_applied_in_the_type_of_the_results() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        dense = Gemma3TextScaledWordEmbedding(37, 96, 0, embed_scale=96**0.5).to(dtype)
        table = DenseWeight.pack(dense.weight.detach().float(), dtype)
        assert torch.equal(PackedEmbedding.from_packed(table, like=dense)(ROWS), dense(ROWS))


def test_the_type_of_results_follows_the_module() -> None:
    embedding = PackedEmbedding.from_packed(TABLES["integer"]).to(torch.float16)
    assert embedding(ROWS).dtype == torch.float16
    assert embedding.scale.dtype == torch.float16
    assert embedding.to(torch.float32)(ROWS).dtype == torch.float32
    assert embedding.weight.shape == (37, 96)


class TiedModel(nn.Module):
    """An embedding and a head over the same tensors."""

    def __init__(self, table: PackedWeight) -> None:
        super().__init__()
        self.embedding = PackedEmbedding.from_packed(table)
        self.head = SparseLinear.tied_to(self.embedding, bias=nn.Parameter(torch.ones(table.shape[0])))


@every_table
def test_a_tied_head_shares_the_tensors_through_copies_and_moves(name: str) -> None:
    model, x = TiedModel(TABLES[name]), torch.randn(2, 96)
    expected = x.double() @ TABLES[name].unpack().double().T + 1
    versions = (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.double().float())
    for version in versions:
        assert torch.allclose(version.head(x).double(), expected, rtol=1e-4, atol=1e-3)
        assert version.head.weight_source() is version.embedding
        assert {key.split(".")[0] for key in version.state_dict() if "bias" not in key} == {"embedding"}
    assert torch.equal(model.head.weight.to(torch.float32), TABLES[name].unpack())


def test_a_tied_head_follows_when_the_table_is_loaded_anew() -> None:
    model, x = TiedModel(TABLES["integer"]), torch.randn(2, 96)
    model.head(x)
    other = IntegerWeight.pack(quantized(37, 96, 6, 32, symmetric=False, seed=7))
    for assign in (False, True):
        model.embedding.load_state_dict(other.tensors(), assign=assign)
        assert torch.allclose(model.head(x), x @ other.unpack().T + 1, atol=1e-3)
        other = IntegerWeight.pack(quantized(37, 96, 6, 32, symmetric=False, seed=8))


def test_an_untied_head_is_a_float_linear_of_its_own() -> None:
    embedding = PackedEmbedding.from_packed(TABLES["integer"])
    head = SparseLinear.tied_to(embedding)
    x = torch.randn(2, 96)
    before = head(x)
    head.unpack()
    assert torch.allclose(head(x), before, atol=1e-4)
    assert torch.equal(embedding(ROWS), TABLES["integer"].unpack()[ROWS])


def test_tables_that_cannot_be_looked_up_are_refused() -> None:
    with pytest.raises(FormatError, match="dense or integer"):
        PackedEmbedding.from_packed(EXAMPLES["bitmask-4-symmetric"])
    with pytest.raises(FormatError, match=r"expected \[5, 96\]"):
        PackedEmbedding.from_packed(TABLES["integer"], like=nn.Embedding(5, 96))
