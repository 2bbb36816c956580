"""An embedding over a packed table: looks up rows without unpacking the others.

V rows (vocabulary), D columns.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn

from gossamer.errors import FormatError
from gossamer.formats.weight import PackedWeight
from gossamer.kernels import table
from gossamer.kernels.declaration import Meta
from gossamer.kernels.table import LOOKUP_FORMATS
from gossamer.layers.packed_module import PackedModule


class PackedEmbedding(PackedModule):
    """Takes the place of nn.Embedding for tables packed as `integer` or `dense`.

    Results have type `weight_dtype` and are multiplied by `embed_scale` (Gemma, BART) in that type. The table
    is frozen, so `padding_idx` is kept only for who reads it.
    """

    def __init__(
        self,
        meta: Meta,
        padding_idx: int | None = None,
        embed_scale: float = 1.0,
        weight_dtype: torch.dtype = torch.float32,
    ):
        super().__init__(weight_dtype)
        if meta.get("format") not in LOOKUP_FORMATS:
            formats = " or ".join(LOOKUP_FORMATS)
            raise FormatError(f"embedding: expected a table packed as {formats}, got {meta.get('format')!r}")
        self.num_embeddings, self.embedding_dim = meta["shape"]
        self.padding_idx = padding_idx
        self.embed_scale = embed_scale
        self._checked: Tensor | None = None

    @classmethod
    def from_meta(
        cls, meta: Meta, like: nn.Embedding | None = None, device: torch.device | str | None = None
    ) -> Self:
        """Return an embedding with empty buffers, to be filled by a loader.

        `like` is the embedding whose place it takes: padding, scale and type of results come from there.
        """
        embedding = cls._like(meta, like)
        embedding.hold_empty(meta, device)
        return embedding

    @classmethod
    def from_packed(cls, packed: PackedWeight, like: nn.Embedding | None = None) -> Self:
        """Return an embedding over these tensors."""
        embedding = cls._like(packed.meta(), like)
        embedding.hold(packed)
        return embedding

    @classmethod
    def _like(cls, meta: Meta, like: nn.Embedding | None) -> Self:
        if like is None:
            return cls(meta)
        if tuple(meta["shape"]) != (like.num_embeddings, like.embedding_dim):
            expected = [like.num_embeddings, like.embedding_dim]
            raise FormatError(f"embedding: expected {expected}, got {list(meta['shape'])}")
        return cls(meta, like.padding_idx, _scale_of(like), like.weight.dtype)

    def forward(self, rows: Tensor) -> Tensor:
        """Return [*rows.shape, D]. IndexError when a row is not in the table, as nn.Embedding does."""
        meta = self.meta
        tensors: dict[str, Any] = self._buffers
        assert meta is not None
        if self._checked is not tensors[self._probe_name]:
            _ = self.packed  # check the buffers once, whoever filled them
            self._checked = tensors[self._probe_name]
        if rows.device.type == "cpu" and rows.numel():
            low, high = torch.aminmax(rows)
            if low < 0 or high >= self.num_embeddings:
                last = self.num_embeddings - 1
                raise IndexError(f"embedding: expected rows from 0 to {last}, got {int(low)} to {int(high)}")
        values = table.rows(meta, tensors, rows).to(self.weight_dtype)
        return values if self.embed_scale == 1.0 else values * values.new_tensor(self.embed_scale)

    def forget_operator(self) -> None:
        super().forget_operator()
        self._checked = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_checked": None}

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {(self.meta or {}).get('format', '')}"


def _scale_of(embedding: nn.Module) -> float:
    """Return the factor that a scaled embedding applies to its rows, else 1."""
    scale = getattr(embedding, "scalar_embed_scale", getattr(embedding, "embed_scale", 1.0))
    return float(scale)
