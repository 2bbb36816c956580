"""Mistral: Llama with a sliding window in all layers."""

from transformers import PretrainedConfig

from gossamer.runtime.families.decoder import Decoder
from gossamer.runtime.plan import Plan, rotary_of


def plan(config: PretrainedConfig) -> Plan:
    return Decoder(
        config,
        {"rotary": rotary_of(config)},
        activation=config.hidden_act,
        window=lambda _layer: config.sliding_window or 0,
    ).plan()
