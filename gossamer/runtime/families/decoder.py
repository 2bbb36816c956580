"""The plan that most decoders share: RMS norms, rotary attention with grouped heads, a gated MLP.

The family files say where they differ.
"""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PretrainedConfig

from gossamer.runtime.plan import (
    HIDDEN,
    AddNorm,
    Attention,
    Embed,
    Head,
    Linear,
    Linears,
    Norm,
    Op,
    Plan,
    Rotary,
    activation_of,
    head_dim_of,
)


@dataclass(frozen=True)
class Decoder:
    """How a decoder that is built like Llama is built; the defaults are Llama's."""

    config: PretrainedConfig
    rotaries: dict[str, Rotary]
    """By name."""
    activation: str
    """Of the MLP, transformers' name."""
    head_norms: bool = False
    """Query and key heads are normed before they are rotated."""
    norms_after: bool = False
    """What attention and MLP add is normed too (sandwich)."""
    norm_offset: float = 0.0
    """Added to the weights of all norms."""
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    """Of the scores; None: head_dim ** -0.5."""
    window: Callable[[int], int] = lambda _layer: 0
    """Layer -> positions that a token sees (0: all)."""
    rotary: Callable[[int], str] = lambda _layer: "rotary"
    """Layer -> name of its rotary."""

    def plan(self) -> Plan:
        """Return its plan for the engine."""
        config = self.config
        ops: list[Op] = [Embed(table="model.embed_tokens", scale=self.embedding_scale)]
        for layer in range(config.num_hidden_layers):
            block = f"model.layers.{layer}"
            ops += [*self._attention(block, layer), *self._mlp(block)]
        tied = "model.embed_tokens" if config.tie_word_embeddings else None
        ops.append(Head(module="lm_head", norm=self._norm("model.norm"), tied_to=tied))
        return Plan(
            hidden_size=config.hidden_size,
            vocabulary_size=config.vocab_size,
            max_positions=config.max_position_embeddings,
            buffers=self._buffers(),
            rotaries=self.rotaries,
            ops=tuple(ops),
        )

    @property
    def _heads(self) -> tuple[int, int, int]:
        """Query heads, key heads, and the size of each."""
        heads = self.config.num_attention_heads
        return heads, getattr(self.config, "num_key_value_heads", None) or heads, head_dim_of(self.config)

    def _buffers(self) -> dict[str, int]:
        heads, key_heads, size = self._heads
        inner = self.config.intermediate_size
        return {
            "query": heads * size,
            "key": key_heads * size,
            "value": key_heads * size,
            "attention": heads * size,
            "added": self.config.hidden_size,
            "gate": inner,
            "up": inner,
            "inner": inner,
        }

    def _attention(self, block: str, layer: int) -> tuple[Op, ...]:
        heads, key_heads, size = self._heads
        attention = f"{block}.self_attn"
        parts = tuple(Linear(f"{attention}.{part[0]}_proj", part) for part in ("query", "key", "value"))
        return (
            Linears(input=HIDDEN, norm=self._norm(f"{block}.input_layernorm"), linears=parts),
            Attention(
                query=("query", 0),
                key=("key", 0),
                value=("value", 0),
                output="attention",
                heads=heads,
                key_heads=key_heads,
                head_dim=size,
                layer=layer,
                scale=size**-0.5 if self.attention_scale is None else self.attention_scale,
                window=self.window(layer),
                rotary=self.rotary(layer),
                query_norm=self._norm(f"{attention}.q_norm") if self.head_norms else None,
                key_norm=self._norm(f"{attention}.k_norm") if self.head_norms else None,
            ),
            *self._added("attention", f"{attention}.o_proj", f"{block}.post_attention_layernorm"),
        )

    def _mlp(self, block: str) -> tuple[Op, ...]:
        mlp = f"{block}.mlp"
        before = "pre_feedforward_layernorm" if self.norms_after else "post_attention_layernorm"
        gated = Linears(
            input=HIDDEN,
            norm=self._norm(f"{block}.{before}"),
            linears=(Linear(f"{mlp}.gate_proj", "gate"), Linear(f"{mlp}.up_proj", "up")),
            then="gate",
            activation=activation_of(self.activation),
            target="inner",
        )
        return (gated, *self._added("inner", f"{mlp}.down_proj", f"{block}.post_feedforward_layernorm"))

    def _norm(self, name: str) -> Norm:
        return Norm(weight=f"{name}.weight", epsilon=self.config.rms_norm_eps, offset=self.norm_offset)

    def _added(self, source: str, module: str, norm: str) -> tuple[Op, ...]:
        """A product that is added to the hidden states, normed before where the decoder does so."""
        product = (Linear(module, "added"),)
        if not self.norms_after:
            return (Linears(input=source, linears=product, then="add"),)
        return (Linears(input=source, linears=product), AddNorm(input="added", norm=self._norm(norm)))
