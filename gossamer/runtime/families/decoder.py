"""The plan that most decoders share: RMS norms, rotary attention with grouped heads, a gated MLP.

The family files say where they differ.
"""

from collections.abc import Callable

from transformers import PretrainedConfig

from gossamer.runtime.plan import (
    HIDDEN,
    Activation,
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


def decoder_plan(
    config: PretrainedConfig,
    rotaries: dict[str, Rotary],
    *,
    activation: str,
    head_norms: bool = False,
    norms_after: bool = False,
    norm_offset: float = 0.0,
    embedding_scale: float = 1.0,
    attention_scale: float | None = None,
    window: Callable[[int], int] = lambda _layer: 0,
    rotary: Callable[[int], str] = lambda _layer: "rotary",
) -> Plan:
    """Return the plan of a decoder that is built like Llama.

    Args:
        config: the model's. rotaries: by name. activation: of the MLP, transformers' name.
        head_norms: query and key heads are normed before they are rotated.
        norms_after: what attention and MLP add is normed too (sandwich).
        norm_offset: added to the weights of all norms.
        attention_scale: of the scores; default: head_dim ** -0.5.
        window, rotary: layer -> positions that a token sees (0: all), name of the rotary.
    """
    heads, size = config.num_attention_heads, head_dim_of(config)
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    buffers = {
        "query": heads * size,
        "key": key_heads * size,
        "value": key_heads * size,
        "attention": heads * size,
        "added": config.hidden_size,
        "gate": config.intermediate_size,
        "up": config.intermediate_size,
        "inner": config.intermediate_size,
    }
    gate = activation_of(activation)

    def norm(name: str) -> Norm:
        return Norm(weight=f"{name}.weight", epsilon=config.rms_norm_eps, offset=norm_offset)

    ops: list[Op] = [Embed(table="model.embed_tokens", scale=embedding_scale)]
    for layer in range(config.num_hidden_layers):
        block = f"model.layers.{layer}"
        attention = f"{block}.self_attn"
        before_mlp = "pre_feedforward_layernorm" if norms_after else "post_attention_layernorm"
        ops += [
            Linears(
                input=HIDDEN,
                norm=norm(f"{block}.input_layernorm"),
                linears=tuple(
                    Linear(f"{attention}.{part[0]}_proj", part) for part in ("query", "key", "value")
                ),
            ),
            Attention(
                query=("query", 0),
                key=("key", 0),
                value=("value", 0),
                output="attention",
                heads=heads,
                key_heads=key_heads,
                head_dim=size,
                layer=layer,
                scale=size**-0.5 if attention_scale is None else attention_scale,
                window=window(layer),
                rotary=rotary(layer),
                query_norm=norm(f"{attention}.q_norm") if head_norms else None,
                key_norm=norm(f"{attention}.k_norm") if head_norms else None,
            ),
            *_added(
                "attention", f"{attention}.o_proj", norm(f"{block}.post_attention_layernorm"), norms_after
            ),
            _gated(f"{block}.mlp", norm(f"{block}.{before_mlp}"), gate),
            *_added(
                "inner", f"{block}.mlp.down_proj", norm(f"{block}.post_feedforward_layernorm"), norms_after
            ),
        ]
    tied = "model.embed_tokens" if config.tie_word_embeddings else None
    ops.append(Head(module="lm_head", norm=norm("model.norm"), tied_to=tied))
    return Plan(
        hidden_size=config.hidden_size,
        vocabulary_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        buffers=buffers,
        rotaries=rotaries,
        ops=tuple(ops),
    )


def _gated(mlp: str, norm: Norm, activation: Activation) -> Linears:
    both = (Linear(f"{mlp}.gate_proj", "gate"), Linear(f"{mlp}.up_proj", "up"))
    return Linears(input=HIDDEN, norm=norm, linears=both, then="gate", activation=activation, target="inner")


def _added(source: str, module: str, norm: Norm, norms_after: bool) -> tuple[Op, ...]:
    product = (Linear(module, "added"),)
    if not norms_after:
        return (Linears(input=source, linears=product, then="add"),)
    return (Linears(input=source, linears=product), AddNorm(input="added", norm=norm))
