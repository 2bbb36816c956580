"""Gemma 3 (text): norms around each block with 1 + weight, scaled embeddings, local layers with their own rotary."""

from transformers import PretrainedConfig

from gossamer.errors import UnsupportedModelError
from gossamer.runtime.families.decoder import Decoder
from gossamer.runtime.plan import Plan, rotary_of


def plan(config: PretrainedConfig) -> Plan:
    if config.use_bidirectional_attention or config.attn_logit_softcapping or config.final_logit_softcapping:
        raise UnsupportedModelError(
            "gemma3_text: the native engine has no soft caps and looks only backwards."
        )

    def window(layer: int) -> int:
        return config.sliding_window if config.layer_types[layer] == "sliding_attention" else 0

    return Decoder(
        config,
        {kind: rotary_of(config, kind) for kind in sorted(set(config.layer_types))},
        activation=config.hidden_activation,
        head_norms=True,
        norms_after=True,
        norm_offset=1.0,
        embedding_scale=config.hidden_size**0.5,
        attention_scale=config.query_pre_attn_scalar**-0.5,
        window=window,
        rotary=lambda layer: config.layer_types[layer],
    ).plan()
