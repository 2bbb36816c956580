"""Qwen2 (biases of query, key and value) and Qwen3 (norms of query and key heads); some layers may slide."""

from transformers import PretrainedConfig

from gossamer.runtime.families.decoder import Decoder
from gossamer.runtime.plan import Plan, rotary_of


def plan2(config: PretrainedConfig) -> Plan:
    return _plan(config, head_norms=False)


def plan3(config: PretrainedConfig) -> Plan:
    return _plan(config, head_norms=True)


def _plan(config: PretrainedConfig, head_norms: bool) -> Plan:
    def window(layer: int) -> int:
        slides = config.layer_types[layer] == "sliding_attention"
        return (config.sliding_window or 0) if slides else 0

    return Decoder(
        config,
        {"rotary": rotary_of(config)},
        activation=config.hidden_act,
        head_norms=head_norms,
        window=window,
    ).plan()
