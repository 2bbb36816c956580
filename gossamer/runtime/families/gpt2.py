"""GPT-2: layer norms, learned positions, one weight for query, key and value, no gate."""

from transformers import PretrainedConfig

from gossamer.errors import UnsupportedModelError
from gossamer.runtime.plan import (
    HIDDEN,
    Attention,
    Embed,
    Head,
    Linear,
    Linears,
    Norm,
    Op,
    Plan,
    activation_of,
    head_dim_of,
)


def plan(config: PretrainedConfig) -> Plan:
    if config.add_cross_attention:
        raise UnsupportedModelError("gpt2 with cross attention: the native engine has none.")
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = head_dim_of(config)

    def norm(name: str) -> Norm:
        epsilon = config.layer_norm_epsilon
        return Norm(weight=f"{name}.weight", bias=f"{name}.bias", epsilon=epsilon, centred=True)

    ops: list[Op] = [Embed(table="transformer.wte", positions="transformer.wpe")]
    for layer in range(config.num_hidden_layers):
        block = f"transformer.h.{layer}"
        scale = size**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            scale /= layer + 1
        ops += [
            Linears(
                input=HIDDEN, norm=norm(f"{block}.ln_1"), linears=(Linear(f"{block}.attn.c_attn", "qkv"),)
            ),
            Attention(
                query=("qkv", 0),
                key=("qkv", hidden),
                value=("qkv", 2 * hidden),
                output="attention",
                heads=heads,
                key_heads=heads,
                head_dim=size,
                layer=layer,
                scale=scale,
            ),
            Linears(input="attention", linears=(Linear(f"{block}.attn.c_proj", "added"),), then="add"),
            Linears(
                input=HIDDEN,
                norm=norm(f"{block}.ln_2"),
                linears=(Linear(f"{block}.mlp.c_fc", "up"),),
                then="gate",
                activation=activation_of(config.activation_function),
                target="inner",
            ),
            Linears(input="inner", linears=(Linear(f"{block}.mlp.c_proj", "added"),), then="add"),
        ]
    tied = "transformer.wte" if config.tie_word_embeddings else None
    ops.append(Head(module="lm_head", norm=norm("transformer.ln_f"), tied_to=tied))
    inner = config.n_inner or 4 * hidden
    return Plan(
        hidden_size=hidden,
        vocabulary_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        buffers={"qkv": 3 * hidden, "attention": hidden, "added": hidden, "up": inner, "inner": inner},
        rotaries={},
        ops=tuple(ops),
        transposed=True,
    )
