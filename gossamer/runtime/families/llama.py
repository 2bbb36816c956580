"""Llama (and what is stored as Llama: SmolLM, TinyLlama, Yi, ...)."""

from transformers import PretrainedConfig

from gossamer.runtime.families.decoder import Decoder
from gossamer.runtime.plan import Plan, rotary_of


def plan(config: PretrainedConfig) -> Plan:
    return Decoder(config, {"rotary": rotary_of(config)}, activation=config.hidden_act).plan()
